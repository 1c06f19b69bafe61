"""POPE over world scenes: balanced existence questions with three kinds of negatives.

Source: Li et al., "Evaluating Object Hallucination in Large Vision-Language Models"
(EMNLP 2023), section 4: per image as many positives as negatives; negatives are drawn
at random, from the most frequent absent nouns, or from the absent nouns that co-occur
most with what is present. Unlike the released builder, ours is seeded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import permutations
from typing import Literal, get_args

import numpy as np

from sightline.errors import ConfigError
from sightline.world.nouns import NOUNS
from sightline.world.questions import Question, existence, random_absent
from sightline.world.scenes import Scene

Negatives = Literal["random", "popular", "adversarial"]
SPLITS: tuple[Negatives, ...] = get_args(Negatives)


def build(
    scenes: Sequence[Scene], negatives: Negatives, *, seed: int = 0, per_image: int = 6
) -> list[list[Question]]:
    """For each scene up to `per_image` questions, half yes and half no.

    A scene with fewer than `per_image / 2` distinct nouns gets as many positives as it
    has nouns, and as many negatives. The positives are the same in all three splits.
    """
    if negatives not in SPLITS or per_image < 2 or per_image % 2:
        raise ConfigError(
            expected=f"negatives in {SPLITS} and an even per_image of 2 or more",
            got=f"negatives={negatives!r}, per_image={per_image}",
        )
    frequency = Counter(noun for scene in scenes for noun in scene.objects)
    together = Counter(pair for scene in scenes for pair in permutations(scene.objects, 2))
    return [
        _ask(scene, index, negatives, frequency, together, seed, per_image)
        for index, scene in enumerate(scenes)
    ]


def _ask(
    scene: Scene,
    index: int,
    negatives: Negatives,
    frequency: Counter[str],
    together: Counter[tuple[str, str]],
    seed: int,
    per_image: int,
) -> list[Question]:
    rng = np.random.default_rng([seed, index, 2])
    present = [scene.objects[i] for i in rng.permutation(len(scene.objects))[: per_image // 2]]
    candidates = random_absent(scene, rng, len(NOUNS))  # shuffled, so that ties fall at random
    if negatives == "popular":
        candidates.sort(key=lambda noun: -frequency[noun])
    elif negatives == "adversarial":
        candidates.sort(key=lambda noun: -sum(together[noun, there] for there in scene.objects))
    asked = present + candidates[: len(present)]
    return [existence(scene, noun) for noun in asked]
