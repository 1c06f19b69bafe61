"""Values with intervals: a seeded percentile bootstrap, clustered by image.

Questions about one image are not independent, so images are resampled, not rows
(cluster bootstrap, Davison & Hinkley 1997, section 3.8). Two models on the same items
are compared within each resample (paired), so what both find hard cancels out.
Nothing here divides by zero: what is undefined is nan with n = 0.

Legend: N items, C clusters (images), R resamples.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sightline.errors import DataError

FloatArray = npt.NDArray[np.float64]

CELLS_PER_CHUNK = 2_000_000
"""Most cells (resamples x clusters) drawn at once; bounds memory to a few tens of MiB."""


@dataclass(frozen=True, slots=True)
class Ratio:
    """A score as per-item counts: its value is `sum(numerator_N) / sum(denominator_N)`."""

    numerator_N: FloatArray
    denominator_N: FloatArray

    @classmethod
    def of(cls, numerator: Sequence[float] | npt.ArrayLike, denominator: npt.ArrayLike = 1.0) -> Ratio:
        """Counts from anything array-like; a scalar denominator counts for every item.

        Raises DataError when the two are not equally long.
        """
        numerator_N = np.atleast_1d(np.asarray(numerator, dtype=np.float64))
        denominator_N = np.asarray(denominator, dtype=np.float64)
        if denominator_N.ndim == 0:
            denominator_N = np.full(len(numerator_N), float(denominator_N))
        if denominator_N.shape != numerator_N.shape or numerator_N.ndim != 1:
            raise DataError(
                expected="one numerator and one denominator an item",
                got=f"shapes {numerator_N.shape} and {denominator_N.shape}",
            )
        return cls(numerator_N, denominator_N)

    def __len__(self) -> int:
        return len(self.numerator_N)

    @property
    def value(self) -> float:
        """The score over all items; nan when nothing is in the denominator."""
        return _divide(float(self.numerator_N.sum()), float(self.denominator_N.sum()))

    def take(self, index: npt.ArrayLike) -> Ratio:
        """The same score on the chosen items, in the given order."""
        chosen = np.asarray(index, dtype=np.int64)
        return Ratio(self.numerator_N[chosen], self.denominator_N[chosen])


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value, its interval, and `n`, how many items it rests on (denominator above 0)."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, slots=True)
class Difference:
    """`delta` = after - before on the same items, with its paired interval.

    `error` is its standard error: the deviation of delta over the resamples; nan where undefined.
    """

    before: float
    after: float
    delta: float
    low: float
    high: float
    n: int
    error: float = math.nan

    @property
    def relative(self) -> float:
        """`delta / before`; nan when `before` is 0 or undefined."""
        return _divide(self.delta, self.before)


def estimate(
    ratio: Ratio, clusters: Sequence[object], *, resamples: int = 2000, level: float = 0.95, seed: int = 0
) -> Estimate:
    """The value of `ratio` with its interval, whole clusters resampled.

    `clusters` names each item's image. With fewer than two clusters the interval is
    nan: one image says nothing about others.
    """
    cluster_N, count = cluster_ids(clusters, len(ratio))
    n = int(np.count_nonzero(ratio.denominator_N))
    if n == 0:
        return Estimate(math.nan, math.nan, math.nan, 0)
    sums_C2 = _cluster_sums(ratio, cluster_N, count)
    values_R = _ratios(_resampled_sums(sums_C2, resamples, seed))
    low, high = _interval(values_R, level, count)
    return Estimate(ratio.value, low, high, n)


def paired_difference(
    before: Ratio,
    after: Ratio,
    clusters: Sequence[object],
    *,
    resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Difference:
    """after - before with its interval; item i of both is the same question.

    `n` counts the items that carry weight on either side. A value that is undefined
    on one side (say precision where nothing was answered yes) makes the delta nan
    with n = 0. Raises DataError when the sides are not equally long.
    """
    if len(before) != len(after):
        raise DataError(
            expected="the same items before and after", got=f"{len(before)} before and {len(after)} after"
        )
    cluster_N, count = cluster_ids(clusters, len(before))
    delta = after.value - before.value
    if math.isnan(delta):
        return Difference(before.value, after.value, math.nan, math.nan, math.nan, 0)
    sums_C4 = np.concatenate(
        [_cluster_sums(before, cluster_N, count), _cluster_sums(after, cluster_N, count)], axis=1
    )
    sums_R4 = _resampled_sums(sums_C4, resamples, seed)
    deltas_R = _ratios(sums_R4[:, 2:]) - _ratios(sums_R4[:, :2])
    low, high = _interval(deltas_R, level, count)
    n = int(np.count_nonzero((before.denominator_N > 0) | (after.denominator_N > 0)))
    defined_R = deltas_R[~np.isnan(deltas_R)]
    error = float(defined_R.std()) if count > 1 and len(defined_R) else math.nan
    return Difference(before.value, after.value, delta, low, high, n, error)


def _divide(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator else math.nan


def cluster_ids(clusters: Sequence[object], items: int) -> tuple[npt.NDArray[np.int64], int]:
    """Each item's cluster as 0..C-1 in order of first appearance, and C."""
    if len(clusters) != items:
        raise DataError(expected=f"one cluster name for each of {items} items", got=f"{len(clusters)} names")
    first_seen: dict[object, int] = {}
    ids = [first_seen.setdefault(name, len(first_seen)) for name in clusters]
    return np.asarray(ids, dtype=np.int64), len(first_seen)


def _cluster_sums(ratio: Ratio, cluster_N: npt.NDArray[np.int64], count: int) -> FloatArray:
    """(C, 2): numerator and denominator of each cluster."""
    return np.stack(
        [
            np.bincount(cluster_N, weights=ratio.numerator_N, minlength=count),
            np.bincount(cluster_N, weights=ratio.denominator_N, minlength=count),
        ],
        axis=1,
    )


def _resampled_sums(sums_CK: FloatArray, resamples: int, seed: int) -> FloatArray:
    """(R, K): column sums of C clusters drawn with replacement, R times."""
    return np.concatenate([drawn_RC @ sums_CK for drawn_RC in draws(len(sums_CK), resamples, seed)])


def draws(count: int, resamples: int, seed: int) -> Iterator[FloatArray]:
    """How often each cluster was drawn, (R, C) in chunks; the same for the same C, R and seed."""
    rng = np.random.default_rng(seed)
    chunk = max(1, CELLS_PER_CHUNK // max(1, count))
    for start in range(0, resamples, chunk):
        rows = min(chunk, resamples - start)
        drawn = rng.integers(0, count, size=(rows, count))
        flat = (drawn + np.arange(rows)[:, None] * count).ravel()
        yield np.bincount(flat, minlength=rows * count).reshape(rows, count).astype(np.float64)


def _ratios(sums_R2: FloatArray) -> FloatArray:
    """numerator / denominator of each resample; nan where the denominator is 0."""
    out_R = np.full(len(sums_R2), np.nan)
    np.divide(sums_R2[:, 0], sums_R2[:, 1], out=out_R, where=sums_R2[:, 1] != 0)
    return out_R


def _interval(values_R: FloatArray, level: float, clusters: int) -> tuple[float, float]:
    """The central `level` of the defined resamples; nan where there is none to speak of."""
    defined_R = values_R[~np.isnan(values_R)]
    if clusters < 2 or not len(defined_R):
        return math.nan, math.nan
    tail = (1.0 - level) / 2.0
    low, high = np.quantile(defined_R, [tail, 1.0 - tail])
    return float(low), float(high)
