"""Pairs of captions of icon scenes: the faithful one, and one that also names what is not there.

What textual steering directions are derived from; `mine` scenes, which no evaluation meets.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sightline.records import Example, PreferencePair
from sightline.world import captions
from sightline.world.scenes import Scene


def caption_pairs(
    examples: Sequence[Example], scenes: Sequence[Scene], *, invented: int, seed: int
) -> list[PreferencePair]:
    """One pair a scene: `chosen` is faithful, `rejected` invents. `examples` are the scenes' caption
    questions, in the scenes' order (as `dataset.write` and `dataset.scenes_of` give them)."""
    pairs = []
    for index, (example, scene) in enumerate(zip(examples, scenes, strict=True)):
        rng = np.random.default_rng([seed, index, 7])
        pairs.append(
            PreferencePair(
                pair_id=example.image_id,
                example_id=example.example_id,
                image_id=example.image_id,
                image_uri=example.image_uri,
                question=example.question,
                context="",
                chosen=captions.faithful(scene),
                rejected=captions.with_invented(scene, invented, rng),
                condition="world",
                sha256=example.sha256,
            )
        )
    return pairs
