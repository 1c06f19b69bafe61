"""DeepSpeed: a ZeRO stage, or a file of its JSON settings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from sightline.config.base import Location
from sightline.errors import ConfigError

DeepSpeed = Annotated[Literal[0, 1, 2, 3], "stage"] | Location
"""ZeRO stage 0 to 3 with plain settings, or the path of a DeepSpeed JSON."""

OURS = (
    "train_batch_size",
    "train_micro_batch_size_per_gpu",
    "gradient_accumulation_steps",
    "gradient_clipping",
    "optimizer",
    "scheduler",
    "bf16",
    "fp16",
)
"""Keys the trainer fills from `training`; a file that sets them would be a second home for them."""


def with_precision(settings: dict[str, Any], *, bf16: bool) -> dict[str, Any]:
    """The settings with the precision that `training.precision` means on this device."""
    return settings | {"bf16": {"enabled": bf16}}


def read_deepspeed(setting: int | str) -> dict[str, Any]:
    """DeepSpeed's settings, without what `OURS` names.

    Raises ConfigError when the file is missing, not a JSON object, or sets one of `OURS`.
    """
    if isinstance(setting, int):
        return {"zero_optimization": {"stage": setting}}
    try:
        settings = json.loads(Path(setting).read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise ConfigError(
            expected="deepspeed to be a ZeRO stage (0 to 3) or a readable JSON file",
            got=f"{setting} ({error})",
            hint="see configs/deepspeed/",
        ) from error
    if not isinstance(settings, dict):
        raise ConfigError(expected=f"a JSON object in {setting}", got=type(settings).__name__)
    taken = [key for key in OURS if key in settings]
    if taken:
        raise ConfigError(
            expected=f"{setting} to leave {', '.join(OURS)} to the section `training`",
            got=", ".join(taken),
            hint="remove them from the file",
        )
    return settings
