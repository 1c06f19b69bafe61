"""Additive steering written into weights: a plain checkpoint, no hook, no overhead.

A decoder block ends with `residual + mlp(x)`, and a Llama's MLP ends with `down_proj`. So what
`AddSteering` adds to a block's output at every token is what a bias of that block's `down_proj`
adds, and Llama's own config has a switch for it (`mlp_bias`). The folder loads with stock
transformers and with vLLM. Only what is the same at every token and in every state can be a
bias: VTI's turn and steering of decoded tokens alone are refused.

Names: D width of the block.
"""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import torch

from sightline.errors import InterventionError, StorageError
from sightline.interventions.base import Intervention
from sightline.interventions.steering import AddSteering
from sightline.models.vlm import Vlm

NOTE = "steering.json"
"""What was baked, beside the weights."""


def bake(vlm: Vlm, steering: Intervention, folder: str | Path) -> Path:
    """Write the model with `steering` in its weights, and its processor, into a new folder.

    Weights keep their precision; in float32 the logits equal the hooked model's up to rounding.
    The model in memory stays as it is. Raises InterventionError for steering that is no bias
    or a decoder that is no Llama, StorageError for a folder that holds something already.
    """
    steering = _bakeable(vlm, steering)
    path = Path(folder)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise StorageError(expected="a new or empty folder to bake into", got=f"{path}, which is not")
    baked = _with_biases(vlm, steering.shifts(vlm))
    baked.save_pretrained(path)
    vlm.processor.save_pretrained(path)
    _rename(path, vlm)
    directions = steering.directions
    note = {
        "steering": "down_proj.bias += strength * direction",
        "strength": steering.strength,
        "layers": sorted(steering.shifts(vlm)),
        "directions": {"digest": directions.digest, "mode": directions.mode, **directions.provenance},
        "model": {"identity": vlm.identity, "source": vlm.source, "revision": vlm.revision},
    }
    (path / NOTE).write_text(json.dumps(note, indent=2, allow_nan=False) + "\n")
    return path


def _bakeable(vlm: Vlm, steering: Intervention) -> AddSteering:
    """The steering, if a bias can say it."""
    if not isinstance(steering, AddSteering):
        raise InterventionError(
            expected="plain additive steering (steer)",
            got=steering.name,
            hint="its change depends on the state it changes, which no bias does; attach it as a stack",
        )
    if steering.scope != "all":
        raise InterventionError(
            expected="steering with scope all",
            got=f"scope {steering.scope}",
            hint="a bias acts at every token; attach it as a stack",
        )
    kind = vlm.adapter.decoder(vlm.model).config.model_type
    if kind != "llama":
        raise InterventionError(
            expected="a Llama decoder, whose config has `mlp_bias`",
            got=kind,
            hint="attach the steering as a stack",
        )
    steering.check(vlm)
    return steering


def _with_biases(vlm: Vlm, shifts: dict[int, torch.Tensor]) -> Any:
    """The model with MLP biases, sharing all other weights with the one in memory."""
    config = copy.deepcopy(vlm.model.config)
    config.text_config.mlp_bias = True
    with torch.device("meta"):
        baked = type(vlm.model)(config)
    state = dict(vlm.model.state_dict())
    names = {module: name for name, module in vlm.model.named_modules()}
    for layer, mlp in enumerate(vlm.adapter.text_mlps(vlm.model)):
        for projection in ("gate_proj", "up_proj", "down_proj"):
            linear: Any = mlp.get_submodule(projection)
            bias_D = linear.bias if linear.bias is not None else linear.weight.new_zeros(linear.out_features)
            if projection == "down_proj" and layer in shifts:
                bias_D = (bias_D.float() + shifts[layer].to(bias_D.device)).to(bias_D.dtype)
            state[f"{names[mlp]}.{projection}.bias"] = bias_D.detach()
    baked.load_state_dict(state, assign=True)
    baked.tie_weights()
    baked.generation_config = copy.deepcopy(vlm.model.generation_config)
    return baked


def _rename(folder: Path, vlm: Vlm) -> None:
    """Give weights the names that other engines want too, where the family has any such."""
    from safetensors.torch import load_file, save_file

    pattern, replacement = vlm.adapter.exported_names
    if not pattern:
        return
    for path in sorted(folder.glob("*.safetensors")):
        tensors = {re.sub(pattern, replacement, name): t for name, t in load_file(path).items()}
        save_file(tensors, path, metadata={"format": "pt"})
    index = folder / "model.safetensors.index.json"
    if index.exists():
        described = json.loads(index.read_text())
        renamed = {re.sub(pattern, replacement, n): f for n, f in described["weight_map"].items()}
        index.write_text(json.dumps(described | {"weight_map": renamed}, indent=2) + "\n")
