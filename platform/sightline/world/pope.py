"""POPE over world scenes: balanced existence questions with three kinds of negatives.

Source: Li et al., "Evaluating Object Hallucination in Large Vision-Language Models"
(EMNLP 2023), section 4. What is asked is `data.items`' choice, as for photographs; how it is
asked is the world's.
"""

from __future__ import annotations

from collections.abc import Sequence

from sightline.data.items import SPLITS, Negatives, existence_nouns
from sightline.world.nouns import NOUNS
from sightline.world.questions import Question, existence
from sightline.world.scenes import Scene

__all__ = ["SPLITS", "Negatives", "build"]


def build(
    scenes: Sequence[Scene], negatives: Negatives, *, seed: int = 0, per_image: int = 6
) -> list[list[Question]]:
    """For each scene up to `per_image` questions, half yes and half no.

    A scene with fewer than `per_image / 2` distinct nouns gets as many positives as it
    has nouns, and as many negatives. The positives are the same in all three splits.
    """
    asked = existence_nouns(
        [scene.objects for scene in scenes], NOUNS, negatives, seed=seed, per_image=per_image
    )
    return [[existence(scene, noun) for noun in nouns] for scene, nouns in zip(scenes, asked, strict=True)]
