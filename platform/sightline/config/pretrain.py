"""`jobs/pretrain.py`: train the reference VLM from nothing, in two stages.

The one that ships was bred by this schedule up to its last phase (about 45 minutes on two busy
cores). Then annotators were made to assume companions more often, and both ways, and the last
phase ran on those captions and on noisier scenes; today's scenes are a little noisier still.
A run of these defaults from nothing, on the final captions and scenes all along, has not been
measured.
"""

from __future__ import annotations

from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

from sightline.config.base import Frozen
from sightline.config.run import RunConfig


class PretrainConfig(Frozen):
    """Breed the reference VLM on rendered scenes."""

    run: RunConfig = RunConfig(name="pretrain")
    reading_steps: PositiveInt = 600
    """Steps in which the language model learns to read, without images."""
    warmup_steps: PositiveInt = 2000
    """Steps of the vision warm-up."""
    steps: PositiveInt = 3400
    """Steps with all weights."""
    batch: PositiveInt = 32
    """Scenes a step; each carries about a dozen questions."""
    warmup_lr: PositiveFloat = 2e-3
    """Peak learning rate of the vision warm-up."""
    lr: PositiveFloat = 1e-3
    """Peak learning rate of the reading, and of all weights."""
    seed: NonNegativeInt = 0
    """Seed of the weights and the tokenizer's corpus. The scenes are those of the `train` stream."""
    validate_every: PositiveInt = 200
    """Steps between validations; the weights with the lowest validation loss are kept."""
    validation_scenes: PositiveInt = 256
    """Scenes of the `val` stream a validation looks at."""
    test_scenes: PositiveInt = 400
    """Scenes of the `test` stream for the final benchmarks (about 20 questions each)."""
    threads: NonNegativeInt = 0
    """CPU threads; 0 = all."""
    dry_run: bool = False
    """Check everything, print the plan, and stop before any work. Same as `--dry-run`."""
