"""What is measured before and after, and what counts as better."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt

from sightline.config.base import Frozen
from sightline.config.dataset import DatasetConfig

Parser = Literal["strict", "official", "opera", "spin", "vcd", "lmms-eval", "vlmevalkit"]
"""Readings of a yes/no answer; `sightline.metrics.pope` says what each does."""


class GateConfig(Frozen):
    """When a trained model may replace the one before: hallucination fell, nothing else broke.

    A fall counts when the whole interval of the difference is below 0. A margin is the
    most that a score may get worse, judged by its point estimate.
    """

    must_fall: tuple[str, ...] = Field(
        default=("pope_adversarial.false_yes_rate", "caption.chair_s"), min_length=1
    )
    """Scores of hallucination that must fall, each as `benchmark.metric`."""
    need: Literal["all", "any"] = "all"
    """Whether all of them must fall, or one is enough."""
    accuracy_margin: NonNegativeFloat = 0.02
    """Largest tolerated loss of accuracy or F1 on any benchmark (0.02 = 2 points). Yes/no
    accuracy that was no better than a coin's before is free: it has nothing to lose."""
    recall_margin: NonNegativeFloat = 0.02
    """Largest tolerated loss of caption recall (0.02 = 2 points)."""
    length_margin: NonNegativeFloat = 0.25
    """Largest tolerated loss of caption length, as a share of the length before."""
    hallucination_margin: NonNegativeFloat = 0.01
    """Largest tolerated rise of any other score of hallucination (0.01 = 1 point)."""
    unparsed_margin: NonNegativeFloat = 0.01
    """Largest tolerated rise of the share of answers that are empty or cannot be read."""


class EvaluationConfig(Frozen):
    """Held-out scenes, POPE in three splits, captions scored by CHAIR."""

    dataset: DatasetConfig | None = None
    """Held-out examples; null = held-out scenes of the world, where `dataset` is the world."""
    scenes: PositiveInt = 500
    """Held-out images; no training scene is among them."""
    seed: NonNegativeInt = 90_001
    """Seed of the held-out scenes."""
    captions: PositiveInt = 500
    """How many of the images are described at length."""
    max_new_tokens: PositiveInt = 96
    """Longest caption, in tokens."""
    short_answer_tokens: PositiveInt = 16
    """Longest answer to a question that is no caption, in tokens."""
    batch_size: PositiveInt = 32
    """Prompts generated together."""
    shard_rows: PositiveInt = 512
    """Prompts a shard; at most this much is redone by a worker that was killed."""
    parser: Parser = "strict"
    """How yes/no answers are read: one of six released rules, or `strict`, which is ours."""
    bootstrap: PositiveInt = 1000
    """Resamples (by image) behind each interval."""
    confidence: float = Field(default=0.95, gt=0.5, lt=1.0)
    """Coverage of the intervals."""
    gate: GateConfig = GateConfig()
    """When the trained model is promoted."""
    shown: NonNegativeInt = 12
    """Example images in the report; 0 = none (for data that may not be copied)."""
