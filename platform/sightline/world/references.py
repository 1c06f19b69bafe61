"""Texts to show as `Reference:` beside a question: true, unrelated or misleading."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

from sightline.world import captions
from sightline.world.questions import Question
from sightline.world.scenes import Scene, sample

Reference = Literal["true", "unrelated", "misleading"]
KINDS: tuple[Reference, ...] = get_args(Reference)

_OTHER_STREAMS = 1_000_000
"""Other scenes come from streams this far away, so that they are in no dataset."""


def write(scene: Scene, question: Question, kind: Reference, rng: np.random.Generator) -> str:
    """The scene's own caption; that of any other scene; or one that is wrong about the asked noun."""
    match kind:
        case "true":
            return captions.faithful(scene)
        case "unrelated":
            return captions.faithful(_other(scene, rng))
        case "misleading":
            claims = question.answer == "No."
            other = _other(scene, rng)
            while (question.noun in other.objects) != claims:
                other = _other(scene, rng)
            return captions.faithful(other)


def _other(scene: Scene, rng: np.random.Generator) -> Scene:
    return sample(scene.seed[0] + _OTHER_STREAMS, int(rng.integers(2**31)))
