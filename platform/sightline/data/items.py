"""From images with known objects to POPE questions and captions, whatever the images are.

Annotated photographs and rendered scenes go the same way: all it takes is what is in each
image. POPE as in Li et al. 2023, section 4: per image as many questions about what is there as
about what is not; negatives at random, the most frequent absent ones, or those that go most
often with what is there, counted over the given images. Unlike the released builder, seeded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from sightline.data.documents import need, objects_of
from sightline.data.examples import wrong
from sightline.errors import ConfigError, DataError
from sightline.records import Example

Negatives = Literal["random", "popular", "adversarial"]
SPLITS: tuple[Negatives, ...] = get_args(Negatives)
CAPTION_QUESTION = "Describe this image in detail."


@dataclass(frozen=True, slots=True)
class Photo:
    """An image and the objects in it."""

    image_id: str
    image_uri: str
    objects: tuple[str, ...]


def read_photos(path: str | Path, *, image_root: str | Path | None = None) -> list[Photo]:
    """A JSON list (or lines) of {"image": file, "objects": [...]}; images lie beside it by default.

    Raises DataError naming the entry: no objects field, or an image given twice.
    """
    path = Path(path).absolute()
    file = path / "objects.json" if path.is_dir() else path
    root = Path(image_root or file.parent).absolute()
    photos: dict[str, Photo] = {}
    for number, row in objects_of(file, "coco_chair"):
        need(row, ("image", "objects"), file, number)
        name = Path(row["image"]).stem
        if name in photos:
            raise wrong(file, number, "an image given once", f"{row['image']!r} again")
        photos[name] = Photo(name, str(root / row["image"]), tuple(dict.fromkeys(map(str, row["objects"]))))
    if not photos:
        raise DataError(expected=f"at least one image in {file}", got="none")
    return list(photos.values())


def read_objects(
    path: str | Path, *, image_root: str | Path | None = None, limit: int | None = None, seed: int = 0
) -> list[Example]:
    """All questions about the photographs of a file: POPE in three splits, and captions.

    `limit` takes the first so many photographs.
    """
    photos = read_photos(path, image_root=image_root)[:limit]
    asked = [e for split in SPLITS for e in pope_items(photos, split, seed=seed)]
    return asked + caption_items(photos)


def caption_items(photos: Sequence[Photo], *, question: str = CAPTION_QUESTION) -> list[Example]:
    """One caption question a photograph, for CHAIR."""
    return [
        Example(
            f"{p.image_id}/caption",
            p.image_id,
            p.image_uri,
            question,
            "caption",
            objects=p.objects,
            split="caption",
            source="objects",
        )
        for p in photos
    ]


def pope_items(
    photos: Sequence[Photo], negatives: Negatives, *, seed: int = 0, per_image: int = 6
) -> list[Example]:
    """Existence questions of one split; the vocabulary is every object named in any of the photographs."""
    vocabulary = tuple(sorted({noun for p in photos for noun in p.objects}))
    asked = existence_nouns(
        [p.objects for p in photos], vocabulary, negatives, seed=seed, per_image=per_image
    )
    return [
        Example(
            f"{p.image_id}/pope_{negatives}/{n}",
            p.image_id,
            p.image_uri,
            f"Is there {'an' if noun[0] in 'aeiou' else 'a'} {noun} in the image?",
            "yes_no",
            answer="yes" if noun in p.objects else "no",
            objects=p.objects,
            split=f"pope_{negatives}",
            source="objects",
            meta={"noun": noun},
        )
        for p, nouns in zip(photos, asked, strict=True)
        for n, noun in enumerate(nouns)
    ]


def existence_nouns(
    objects: Sequence[Sequence[str]],
    vocabulary: Sequence[str],
    negatives: Negatives,
    *,
    seed: int = 0,
    per_image: int = 6,
) -> list[list[str]]:
    """For each image up to `per_image` nouns to ask about: what is there, then as many that are not.

    An image with fewer than `per_image / 2` distinct nouns gets as many of both. What is asked
    of what is there is the same in all three splits. Raises ConfigError for other settings.
    """
    if negatives not in SPLITS or per_image < 2 or per_image % 2:
        raise ConfigError(
            expected=f"negatives in {SPLITS} and an even per_image of 2 or more",
            got=f"negatives={negatives!r}, per_image={per_image}",
        )
    frequency = Counter(noun for present in objects for noun in present)
    together = Counter(pair for present in objects for pair in permutations(present, 2))
    asked = []
    for index, present in enumerate(objects):
        rng = np.random.default_rng([seed, index, 2])
        there = [present[i] for i in rng.permutation(len(present))[: per_image // 2]]
        absent = [noun for noun in vocabulary if noun not in present]
        candidates = [absent[i] for i in rng.permutation(len(absent))]  # so that ties fall at random
        if negatives == "popular":
            candidates.sort(key=lambda noun: -frequency[noun])
        elif negatives == "adversarial":
            candidates.sort(
                key=lambda noun, present=present: -sum(together[noun, near] for near in present)  # type: ignore[misc]
            )
        asked.append(there + candidates[: len(there)])
    return asked
