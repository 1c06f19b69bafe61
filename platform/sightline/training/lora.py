"""Which weights learn: low-rank adapters on named projections, or the model itself."""

from __future__ import annotations

import re
from typing import Any

from torch import nn

from sightline.config.lora import LoraConfig
from sightline.errors import ConfigError


def attach(model: nn.Module, config: LoraConfig, *, seed: int, adapters_in_fp32: bool = True) -> Any:
    """Freeze `model` and put an adapter on every projection whose name matches.

    `adapters_in_fp32=False` keeps the adapters in the model's own dtype, which ZeRO 3 needs: it
    gathers parameters into buffers of one dtype. Returns peft's model; raises ConfigError if
    nothing matches.
    """
    import torch
    from peft import LoraConfig as PeftLoraConfig
    from peft import get_peft_model

    names = linear_names(model)
    if not any(re.fullmatch(config.targets, name) for name in names):
        raise ConfigError(
            expected="lora.targets to match at least one linear layer",
            got=f"{config.targets!r}, which matches none of {len(names)}",
            hint="names look like " + ", ".join(names[:2] + names[-2:]),
        )
    torch.manual_seed(seed)
    settings = PeftLoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=config.targets,
        bias="none",
    )
    return get_peft_model(model, settings, autocast_adapter_dtype=adapters_in_fp32)


def freeze(model: nn.Module, pattern: str | None) -> None:
    """For full fine-tuning: let everything learn but the parameters whose whole name matches.

    Raises ConfigError if a pattern matches nothing, or everything.
    """
    names = [name for name, _ in model.named_parameters()]
    frozen = {name for name in names if pattern and re.fullmatch(pattern, name)}
    if pattern and len(frozen) in (0, len(names)):
        raise ConfigError(
            expected="training.freeze to match some of the parameters",
            got=f"{pattern!r}, which matches {len(frozen)} of {len(names)}",
            hint="names look like " + ", ".join(names[:2] + names[-2:]),
        )
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in frozen)


def linear_names(model: nn.Module) -> list[str]:
    """Names of all linear layers, in the order of the model."""
    return [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]


def trainable_parameters(model: nn.Module) -> int:
    """Number of weights that learn."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
