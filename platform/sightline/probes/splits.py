"""Which rows a probe learns from, which choose its threshold, which judge it.

By image is the default: questions about one image share its features (the vision_only
site is the same vector for all of them), so a split by question lets a probe recognise
images it has seen. By question is HALP's, kept for comparison.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sightline.config.probing import SplitSettings
from sightline.errors import ConfigError, DataError

IndexArray = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Split:
    """Row numbers of the three sides, rising; no row is on two. `name` says by what they were parted."""

    name: str
    train: IndexArray
    valid: IndexArray
    test: IndexArray


def split_rows(
    labels_N: npt.ArrayLike,
    settings: SplitSettings,
    *,
    images: Sequence[object],
    sources: Sequence[str] | None = None,
) -> Split:
    """The split that `settings.by` names, the same for the same seed.

    Raises DataError where a side would lack a class, ConfigError for a source that is not there.
    """
    labels = np.asarray(labels_N).astype(np.int64)
    if len(images) != len(labels):
        raise DataError(expected=f"one image for each of {len(labels)} rows", got=f"{len(images)}")
    match settings.by:
        case "question":
            split = _by_question(labels, settings)
        case "image":
            split = _by_image(labels, np.asarray(images, dtype=str), settings)
        case "source":
            split = _by_source(labels, np.asarray(images, dtype=str), sources, settings)
    for side in ("train", "valid", "test"):
        _needs_both_classes(labels[getattr(split, side)], side, settings)
    return split


def _by_question(labels_N: IndexArray, settings: SplitSettings) -> Split:
    """HALP's: `train_test_split(test_size=0.2, stratify=labels, random_state=42)`."""
    rows = np.arange(len(labels_N))
    train, test = _stratified(rows, labels_N, settings.test_share, settings)
    train, valid = _stratified(train, labels_N, settings.valid_share / (1 - settings.test_share), settings)
    return Split("question", np.sort(train), np.sort(valid), np.sort(test))


def _stratified(
    rows: IndexArray, labels_N: IndexArray, share: float, settings: SplitSettings
) -> tuple[IndexArray, IndexArray]:
    from sklearn.model_selection import train_test_split

    if not share:
        return rows, rows[:0]
    for label in (0, 1):
        if (labels_N[rows] == label).sum() < 2:
            _needs_both_classes(labels_N[rows] * 0 + (1 - label), "train", settings)
    kept, held = train_test_split(rows, test_size=share, random_state=settings.seed, stratify=labels_N[rows])
    return kept, held


def _by_image(labels_N: IndexArray, images_N: npt.NDArray[np.str_], settings: SplitSettings) -> Split:
    rows = np.arange(len(labels_N))
    test = _whole_images(rows, labels_N, images_N, settings.test_share, settings.seed)
    rest = np.setdiff1d(rows, test)
    share = settings.valid_share / (1 - settings.test_share)
    valid = _whole_images(rest, labels_N, images_N, share, settings.seed + 1)
    return Split("image", np.setdiff1d(rest, valid), valid, test)


def _by_source(
    labels_N: IndexArray,
    images_N: npt.NDArray[np.str_],
    sources: Sequence[str] | None,
    settings: SplitSettings,
) -> Split:
    """One source judges; an image that it shares with others learns on neither side."""
    names = sorted(set(sources or ()))
    if settings.source not in names or len(names) < 2:
        raise ConfigError(
            expected=f"split.source to be one of two or more sources; there are {', '.join(names) or 'none'}",
            got=repr(settings.source),
        )
    held_N = np.asarray(sources, dtype=str) == settings.source
    rest = np.flatnonzero(~held_N & ~np.isin(images_N, images_N[held_N]))
    share = settings.valid_share / (1 - settings.test_share)
    valid = _whole_images(rest, labels_N, images_N, share, settings.seed + 1)
    return Split(f"source {settings.source}", np.setdiff1d(rest, valid), valid, np.flatnonzero(held_N))


def _whole_images(
    rows: IndexArray, labels_N: IndexArray, images_N: npt.NDArray[np.str_], share: float, seed: int
) -> IndexArray:
    """Rows of whole images that hold about `share` of the rows of each class.

    Images are taken in random order, those with most rows first, each into the side that is
    further from its due of the image's classes: greedy, so as good as image sizes allow.
    """
    if not share or not len(rows):
        return rows[:0]
    names, image_of = np.unique(images_N[rows], return_inverse=True)
    counts_I2 = np.stack(
        [np.bincount(image_of, weights=labels_N[rows] == c, minlength=len(names)) for c in (0, 1)], axis=1
    )
    order = np.random.default_rng(seed).permutation(len(names))
    order = order[np.argsort(-counts_I2[order].sum(axis=1), kind="stable")]
    total_2 = np.maximum(counts_I2.sum(axis=0), 1)
    held_2, seen_2 = np.zeros(2), np.zeros(2)
    chosen = np.zeros(len(names), dtype=bool)
    for image in order:
        seen_2 += counts_I2[image]
        short_2 = (share * seen_2 - held_2) / total_2  # how far the held side lags behind its share
        if (short_2 * counts_I2[image] / total_2).sum() > 0.5 * ((counts_I2[image] / total_2) ** 2).sum():
            chosen[image] = True
            held_2 += counts_I2[image]
    return rows[chosen[image_of]]


def _needs_both_classes(labels: IndexArray, side: str, settings: SplitSettings) -> None:
    if side == "valid" and not settings.valid_share:
        return
    counts = [int((labels == c).sum()) for c in (0, 1)]
    if min(counts) == 0:
        raise DataError(
            expected=f"both classes among the {side} rows of a split by {settings.by}",
            got=f"{counts[0]} rows of class 0 and {counts[1]} of class 1",
            hint="give more labelled rows, or another split.by, split.seed or share",
        )
