"""Which image stands in for the right one in condition (b). Paths only; no pixels.

The choice depends on the seed and the image's id alone, never on the order of the rows,
the shards or the workers. Several candidates are named because one may be unreadable.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from sightline.errors import DataError
from sightline.records import Example


@dataclass(frozen=True, slots=True)
class WrongImage:
    """Another image of the dataset, and the seed of the noise that goes on it."""

    image_id: str
    image_uri: str
    noise_seed: int
    sha256: str = ""
    """Of the file; "" until it has been read, where the dataset does not say."""


def assign(examples: Sequence[Example], *, seed: int, candidates: int = 3) -> dict[str, list[WrongImage]]:
    """For each image id, other images in order of preference.

    Another image has another id, path and (where both are known) content hash. Raises
    DataError when a dataset holds a single image, for then none is wrong.
    """
    images: dict[str, Example] = {}
    for example in examples:
        images.setdefault(example.image_id, example)
    pool = [images[image_id] for image_id in sorted(images)]
    return {image_id: _choose(right, pool, seed, candidates) for image_id, right in images.items()}


def stable_seed(*parts: object) -> int:
    """A number below 2**31 that depends on `parts` alone, in every process."""
    digest = hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:4], "big") & 0x7FFFFFFF


def _choose(right: Example, pool: Sequence[Example], seed: int, candidates: int) -> list[WrongImage]:
    # Start anywhere and step by a number coprime enough to the pool: no two images walk alike.
    start = stable_seed(seed, right.image_id, "start") % len(pool)
    step = 1 + stable_seed(seed, right.image_id, "step") % max(1, len(pool) - 1)
    chosen: dict[str, WrongImage] = {}
    for turn in range(len(pool)):
        for offset in (turn * step, turn):
            other = pool[(start + offset) % len(pool)]
            if _differs(right, other) and other.image_id not in chosen:
                noise_seed = stable_seed(seed, right.image_id, other.image_id, "noise")
                chosen[other.image_id] = WrongImage(other.image_id, other.image_uri, noise_seed, other.sha256)
            if len(chosen) == candidates:
                return list(chosen.values())
    if not chosen:
        raise DataError(
            expected="at least two different images, so that one can be the wrong one",
            got=f"only {right.image_uri}",
            hint='use mining.wrong_image=noise, or leave "cm" out of mining.conditions',
        )
    return list(chosen.values())


def _differs(right: Example, other: Example) -> bool:
    same_bytes = bool(right.sha256) and right.sha256 == other.sha256
    return other.image_id != right.image_id and other.image_uri != right.image_uri and not same_bytes
