"""The plan of a run, from its configuration alone: sizes, batches, memory. No weights, no work.

The model is built on the meta device, so a laptop can plan a run of any size.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sightline.config.dpo import DpoConfig
from sightline.config.zero import read_deepspeed
from sightline.data.pairs import read_pairs
from sightline.models.meta import Size, architecture, build_on_meta, measure
from sightline.training import lora
from sightline.training.plan import Plan, accumulation_steps

_GB = 1e9


def plan(config: DpoConfig) -> str:
    """What `jobs/dpo.py` would do, as text. Raises what the run itself would raise at its start."""
    model = build_on_meta(architecture(config.model.source, revision=config.model.revision))
    size = measure(model)
    if config.lora is None:
        lora.freeze(model, config.training.freeze)
    else:
        model = lora.attach(model, config.lora, seed=config.training.seed)
    trainable = lora.trainable_parameters(model)
    sections = {
        "model": _model(config, size),
        "training": _training(config, trainable),
        "batches": _batches(config),
        "memory of one worker": _memory(config, size, trainable),
        "data": _data(config),
    }
    lines = [f"plan of {config.run.folder} (dry run: nothing was loaded, nothing written)"]
    for title, rows in sections.items():
        lines += ["", title, *(f"  {name:<26} {value}" for name, value in rows.items())]
    return "\n".join(lines) + "\n"


def _model(config: DpoConfig, size: Size) -> dict[str, str]:
    return {
        "source": f"{config.model.source} {config.model.revision or ''}".strip(),
        "parameters": _count(size.parameters),
        "vision": f"{size.vision_blocks} blocks, width {size.vision_width}",
        "text": f"{size.text_blocks} blocks, width {size.text_width}, {size.vocabulary:,} words",
    }


def _training(config: DpoConfig, trainable: int) -> dict[str, str]:
    training, adapters = config.training, config.lora
    how = "all weights" if adapters is None else f"LoRA, rank {adapters.rank}, alpha {adapters.alpha:g}"
    return {
        "learns": f"{how}: {_count(trainable)} parameters",
        "loss": f"{training.loss}, beta {training.beta:g}, label smoothing {training.label_smoothing:g}",
        "precision": "bfloat16" if _bf16(config) else "float32",
        "engine": "plain torch" if config.deepspeed is None else f"DeepSpeed, ZeRO {_zero(config)[0]}",
    }


def _batches(config: DpoConfig) -> dict[str, str]:
    training, workers = config.training, config.resources.workers
    accumulation = accumulation_steps(training.global_batch, micro_batch=training.micro_batch, world=workers)
    rows = {
        "pairs a step": f"{training.global_batch} = {training.micro_batch} in a forward"
        f" x {workers} workers x {accumulation} accumulated",
        "checkpoints": f"every {training.checkpoint_every} steps; up to {training.max_failures} restarts",
    }
    if config.pairs is not None:
        pairs = len(read_pairs(config.pairs))
        steps = Plan.of(
            pairs,
            global_batch=training.global_batch,
            epochs=training.epochs,
            max_steps=training.max_steps,
            seed=training.seed,
        ).steps
        rows["steps"] = f"{steps} ({pairs:,} pairs, {training.epochs} epochs)"
    return rows


def _memory(config: DpoConfig, size: Size, trainable: int) -> dict[str, str]:
    """The fixed part, by the bookkeeping of the ZeRO paper (1910.02054, section 3.1), and activations."""
    stage, settings = _zero(config)
    workers, narrow = config.resources.workers, _bf16(config)
    frozen = size.parameters if config.lora is not None else size.parameters - trainable
    under_zero = config.deepspeed is not None
    frozen_each = 2 if narrow and (config.lora is not None or under_zero) else 4
    weight_each, grad_each, state_each = (2, 2, 12) if under_zero and narrow else (4, 4, 8)
    weights = (frozen * frozen_each + trainable * weight_each) / (workers if stage == 3 else 1)
    gradients = trainable * grad_each / (workers if stage >= 2 else 1)
    states = trainable * state_each / (workers if stage >= 1 else 1)
    offloaded = {name: _device(settings, f"offload_{name}") for name in ("param", "optimizer")}
    kept = {
        "weights": 0.0 if offloaded["param"] == "cpu" else weights,
        "gradients": gradients,
        "optimiser": 0.0 if offloaded["optimizer"] == "cpu" else states,
    }
    # A block keeps about 34 bytes a token and feature in bf16 (2205.05198, section 4.1), recomputed
    # blocks only their input.
    each_token = 2 if config.training.gradient_checkpointing else 34
    activations = 1000 * size.text_width * size.text_blocks * each_token * (1 if narrow else 2)
    rows = {name: f"{value / _GB:.2f} GB" for name, value in kept.items()}
    rows["sum without activations"] = f"{sum(kept.values()) / _GB:.2f} GB"
    rows["activations"] = f"{activations / _GB:.2f} GB for every 1,000 tokens in a forward"
    if "cpu" in offloaded.values():
        away = weights * (offloaded["param"] == "cpu") + states * (offloaded["optimizer"] == "cpu")
        rows["host memory"] = f"{away / _GB:.2f} GB"
    return rows


def _data(config: DpoConfig) -> dict[str, str]:
    held_out = config.evaluation.dataset
    return {
        "pairs": config.pairs or f"mined from {_source(config.dataset)}",
        "measured on": f"{config.evaluation.scenes} held-out scenes of the world"
        if held_out is None
        else _source(held_out),
    }


def _source(dataset: Any) -> str:
    return f"{dataset.scenes} scenes of the world" if dataset.type == "world" else str(dataset.path)


def _zero(config: DpoConfig) -> tuple[int, Mapping[str, Any]]:
    """ZeRO stage and its settings; stage 0 without DeepSpeed."""
    if config.deepspeed is None:
        return 0, {}
    settings = read_deepspeed(config.deepspeed).get("zero_optimization", {})
    return int(settings.get("stage", 0)), settings


def _device(settings: Mapping[str, Any], name: str) -> str:
    return str(settings[name]["device"]) if name in settings else "none"


def _bf16(config: DpoConfig) -> bool:
    return config.training.bf16("cuda" if config.resources.gpus_per_worker else "cpu")


def _count(number: int) -> str:
    return f"{number / 1e9:.3f}e9" if number >= 1e9 else f"{number / 1e6:.2f}e6"
