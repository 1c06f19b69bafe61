"""`jobs/pretrain.py`: train the reference VLM from nothing, in two stages."""

from __future__ import annotations

from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

from sightline.config.base import Frozen
from sightline.config.run import RunConfig


class PretrainConfig(Frozen):
    """Breed the reference VLM on rendered scenes."""

    run: RunConfig = RunConfig(name="pretrain")
    warmup_steps: PositiveInt = 1500
    """Steps of the vision warm-up."""
    steps: PositiveInt = 8000
    """Steps with all weights."""
    batch: PositiveInt = 48
    """Scenes a step."""
    lr: PositiveFloat = 1e-3
    """Peak learning rate."""
    seed: NonNegativeInt = 0
    """Seed of weights and scenes."""
    dry_run: bool = False
    """Check everything, print the plan, and stop before any work. Same as `--dry-run`."""
