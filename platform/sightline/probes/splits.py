"""Which rows a probe learns from, which choose its threshold, which judge it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sightline.config.probing import SplitSettings

IndexArray = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Split:
    """Row numbers of the three sides; no row is on two. `name` says by what they were parted."""

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
    """The split that `settings.by` names. Raises DataError where a side would lack a class."""
    raise NotImplementedError
