"""What is measured before and after, and what counts as better."""

from __future__ import annotations

from pydantic import Field, NonNegativeInt, PositiveInt

from sightline.config.base import Frozen


class EvaluationConfig(Frozen):
    """Held-out scenes, POPE in three splits, captions scored by CHAIR."""

    scenes: PositiveInt = 500
    """Held-out images; no training scene is among them."""
    seed: NonNegativeInt = 90_001
    """Seed of the held-out scenes."""
    captions: PositiveInt = 300
    """How many of the images are described at length."""
    max_new_tokens: PositiveInt = 96
    """Longest caption, in tokens."""
    batch_size: PositiveInt = 32
    """Prompts generated together."""
    bootstrap: PositiveInt = 1000
    """Resamples (by image) behind each interval."""
    confidence: float = Field(default=0.95, gt=0.5, lt=1.0)
    """Coverage of the intervals."""
