"""The model that learns: loaded in the right precision, with adapters or whole, and saved again."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sightline.config.dpo import DpoConfig
from sightline.models.vlm import Dtype, Vlm
from sightline.training import lora
from sightline.training.forward import PairForward

_PREFIX = "model."
"""Parameter names inside PairForward start with this."""


@dataclass(frozen=True, slots=True)
class Policy:
    """A VLM, and the module that computes pairs with it."""

    vlm: Vlm
    forward: PairForward
    export_merged: bool = False
    """Save adapters inside the weights: their base lies in no folder, an adapter was merged into it."""

    def save(self, folder: str, weights: Mapping[str, torch.Tensor]) -> None:
        """Write an adapter folder, or a plain Hugging Face folder, with the processor beside it.

        `weights` are PairForward's, in full. The folder appears whole or not at all.
        """
        state = {name.removeprefix(_PREFIX): tensor for name, tensor in weights.items()}
        temporary = f"{folder}.{uuid.uuid4().hex[:8]}.tmp"
        model = self.forward.model
        if self.export_merged:
            model.load_state_dict(state)
            model.merge_and_unload().save_pretrained(temporary)
        else:
            model.save_pretrained(temporary, state_dict=state)
        self.vlm.processor.save_pretrained(temporary)
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(temporary, Path(folder))


def load_policy(
    config: DpoConfig, *, device: torch.device, deepspeed: Mapping[str, Any] | None = None
) -> Policy:
    """The policy of a run, ready for an engine.

    Frozen weights under adapters are held in the precision of the computation. Weights that learn
    are held in float32, except under DeepSpeed's bf16 mode, which keeps its own float32 copies.
    """
    training = config.training
    bf16 = training.bf16(device.type)
    narrow = bf16 and (config.lora is not None or deepspeed is not None)
    # ZeRO 3 cuts the weights up while they are loaded, as long as this object lives.
    keep_alive = _zero3(deepspeed)
    vlm = load_vlm(config, device=device, dtype="bfloat16" if narrow else "float32")
    model = vlm.model
    if config.lora is None:
        lora.freeze(model, training.freeze)
    else:
        model = lora.attach(model, config.lora, seed=training.seed, adapters_in_fp32=deepspeed is None)
    if training.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    del keep_alive
    forward = PairForward(model, vlm.adapter, training.forward, image_token_id=vlm.image_token_id)
    merged = config.lora is not None and config.model.adapter is not None
    return Policy(vlm, forward, export_merged=merged)


def load_vlm(config: DpoConfig, *, device: torch.device, dtype: Dtype) -> Vlm:
    """The model that `config.model` names, on this worker's device."""
    return Vlm.of(config.model.model_copy(update={"dtype": dtype, "device": str(device)}))


def _zero3(deepspeed: Mapping[str, Any] | None) -> object | None:
    if not deepspeed or deepspeed.get("zero_optimization", {}).get("stage") != 3:
        return None
    from sightline.distributed.engines import import_deepspeed

    import_deepspeed()
    from transformers.integrations import HfDeepSpeedConfig

    return HfDeepSpeedConfig(dict(deepspeed) | {"train_micro_batch_size_per_gpu": 1})
