"""Scores of a detector: how well numbers tell hallucinated rows from the others.

The positive class is 1 (hallucinated). Rankings treat ties as ties, so a constant score
has AUROC 0.5 whatever the order of the rows. What is undefined (one class only) is nan,
never an exception and never 0.

Legend: N rows, K distinct scores, C clusters (images), R resamples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sightline.errors import DataError
from sightline.metrics.bootstrap import FloatArray, cluster_ids, draws

_CELLS_PER_CHUNK = 4_000_000


@dataclass(frozen=True, slots=True)
class Curve:
    """Points of a curve, `x` rising; `threshold_K[k]` is the least score counted positive."""

    x: FloatArray
    y: FloatArray
    threshold_K: FloatArray


def auroc(labels: npt.ArrayLike, scores: npt.ArrayLike) -> float:
    """Area under the ROC curve: P(positive scores higher) + P(equal) / 2 (Hanley & McNeil 1982).

    nan with a single class.
    """
    positive_K, negative_K, _ = _by_score(labels, scores)
    pairs = positive_K.sum() * negative_K.sum()
    right = (positive_K * (np.cumsum(negative_K) - negative_K / 2)).sum()
    return float(right / pairs) if pairs else math.nan


def auprc(labels: npt.ArrayLike, scores: npt.ArrayLike) -> float:
    """Average precision: precision at each distinct score, weighted by the recall it adds.

    A step function, not the optimistic trapezoids (Davis & Goadrich 2006). nan without positives.
    """
    positive_K, negative_K, _ = _by_score(labels, scores)
    total = positive_K.sum()
    if not total:
        return math.nan
    hits_K, alarms_K = np.cumsum(positive_K[::-1]), np.cumsum((positive_K + negative_K)[::-1])
    return float((hits_K / alarms_K * positive_K[::-1]).sum() / total)


def roc_curve(labels: npt.ArrayLike, scores: npt.ArrayLike) -> Curve:
    """False against true positive rate, from (0, 0) to (1, 1), one point a distinct score."""
    positive_K, negative_K, score_K = _by_score(labels, scores)
    hits, false = np.cumsum(positive_K[::-1]), np.cumsum(negative_K[::-1])
    return Curve(
        np.concatenate([[0.0], false / max(negative_K.sum(), 1)]),
        np.concatenate([[0.0], hits / max(positive_K.sum(), 1)]),
        np.concatenate([[math.inf], score_K[::-1]]),
    )


@dataclass(frozen=True, slots=True)
class Confusion:
    """Counts at a threshold; rates whose denominator is 0 are 0, as HALP's (sklearn) are."""

    true_positive: int
    false_positive: int
    false_negative: int
    true_negative: int

    @property
    def accuracy(self) -> float:
        n = self.true_positive + self.false_positive + self.false_negative + self.true_negative
        return _share(self.true_positive + self.true_negative, n)

    @property
    def precision(self) -> float:
        return _share(self.true_positive, self.true_positive + self.false_positive)

    @property
    def recall(self) -> float:
        return _share(self.true_positive, self.true_positive + self.false_negative)

    @property
    def f1(self) -> float:
        wrong = self.false_positive + self.false_negative
        return _share(2 * self.true_positive, 2 * self.true_positive + wrong)


def confusion(labels: npt.ArrayLike, scores: npt.ArrayLike, threshold: float = 0.5) -> Confusion:
    """Counts with everything at or above `threshold` called positive."""
    labels_N, scores_N = _pair(labels, scores)
    called_N = scores_N >= threshold
    return Confusion(
        int((called_N & labels_N).sum()),
        int((called_N & ~labels_N).sum()),
        int((~called_N & labels_N).sum()),
        int((~called_N & ~labels_N).sum()),
    )


def best_f1_threshold(labels: npt.ArrayLike, scores: npt.ArrayLike) -> tuple[float, float]:
    """(threshold, F1) where F1 is largest; on a tie the highest threshold (fewest alarms).

    Between two scores the middle is taken, so that a row just below the best one on other
    data is not lost to rounding. Choose it on validation rows. (nan, nan) without positives.
    """
    positive_K, negative_K, score_K = _by_score(labels, scores)
    total = positive_K.sum()
    if not total:
        return math.nan, math.nan
    hits_K, alarms_K = np.cumsum(positive_K[::-1]), np.cumsum((positive_K + negative_K)[::-1])
    f1_K = 2 * hits_K / (alarms_K + total)
    best = int(np.argmax(f1_K))
    falling_K = score_K[::-1]
    below = falling_K[best + 1] if best + 1 < len(falling_K) else falling_K[best]
    return float((falling_K[best] + below) / 2), float(f1_K[best])


@dataclass(frozen=True, slots=True)
class Reliability:
    """Calibration by bins of equal width; empty bins are left out."""

    mean_score_B: FloatArray
    positive_share_B: FloatArray
    count_B: npt.NDArray[np.int64]

    @property
    def ece(self) -> float:
        """Expected calibration error (Naeini et al. 2015), the gap weighted by the bin's rows."""
        n = self.count_B.sum()
        gaps_B = np.abs(self.mean_score_B - self.positive_share_B)
        return float((gaps_B * self.count_B).sum() / n) if n else math.nan


def reliability(labels: npt.ArrayLike, probabilities: npt.ArrayLike, bins: int = 10) -> Reliability:
    """Mean probability against share of positives, by bin. Raises DataError outside 0..1."""
    labels_N, scores_N = _pair(labels, probabilities)
    if len(scores_N) and (scores_N.min() < 0 or scores_N.max() > 1):
        raise DataError(
            expected="probabilities between 0 and 1",
            got=f"{scores_N.min():.4g} to {scores_N.max():.4g}",
            hint="calibration is of probabilities; pass predict_proba's, not logits",
        )
    bin_N = np.minimum((scores_N * bins).astype(np.int64), bins - 1)
    count_B = np.bincount(bin_N, minlength=bins)
    full = count_B > 0
    sums = [np.bincount(bin_N, weights=w, minlength=bins)[full] for w in (scores_N, labels_N)]
    return Reliability(sums[0] / count_B[full], sums[1] / count_B[full], count_B[full])


def risk_coverage(labels: npt.ArrayLike, scores: npt.ArrayLike) -> Curve:
    """Answer the least suspect rows first: share answered (x) against share hallucinated among them (y).

    El-Yaniv & Wiener 2010. Rows of one score are answered together; `threshold_K` is that score.
    """
    positive_K, negative_K, score_K = _by_score(labels, scores)
    answered_K = np.cumsum(positive_K + negative_K)
    n = answered_K[-1] if len(answered_K) else 1.0
    return Curve(answered_K / n, np.cumsum(positive_K) / answered_K, score_K)


def clustered_auroc(
    labels: npt.ArrayLike,
    scores: npt.ArrayLike,
    clusters: Sequence[object],
    *,
    strata: Sequence[object] | None = None,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float, float]:
    """(AUROC, low, high): percentile bootstrap over whole clusters (images).

    With `strata` (kinds of question), pairs are compared within a stratum only and pooled by their
    number: what is left when the kind itself can no longer help. nan where undefined, as is the
    interval with fewer than two clusters.
    """
    values_R = resampled_aurocs(labels, [scores], clusters, strata=strata, resamples=resamples, seed=seed)[0]
    value, drawn_R = float(values_R[0]), values_R[1:]
    drawn_R = drawn_R[~np.isnan(drawn_R)]
    if math.isnan(value) or not len(drawn_R) or len(set(clusters)) < 2:
        return value, math.nan, math.nan
    tail = (1.0 - level) / 2.0
    low, high = np.quantile(drawn_R, [tail, 1.0 - tail])
    return value, float(low), float(high)


def resampled_aurocs(
    labels: npt.ArrayLike,
    scores: Sequence[npt.ArrayLike],
    clusters: Sequence[object],
    *,
    strata: Sequence[object] | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> FloatArray:
    """AUROCs of several detectors on the same rows: (detectors, 1 + R), the first column unresampled.

    Every detector sees the same resamples, so differences between rows of the result are paired.
    """
    pairs = [_pair(labels, each) for each in scores]
    labels_N = np.asarray(labels).astype(bool)
    cluster_N, count = cluster_ids(clusters, len(labels_N))
    if strata is not None and len(strata) != len(labels_N):
        raise DataError(expected=f"one stratum for each of {len(labels_N)} rows", got=f"{len(strata)}")
    stratum_N = np.unique(np.asarray(strata if strata is not None else labels_N * 0), return_inverse=True)[1]
    ranks = [_ranked(scores_N, stratum_N) for _, scores_N in pairs]
    values = [_pooled(labels_N, ranks, np.ones((1, len(labels_N))))]
    if len(labels_N):
        for drawn_RC in draws(count, resamples, seed):
            step = max(1, _CELLS_PER_CHUNK // len(labels_N))
            for start in range(0, len(drawn_RC), step):
                values.append(_pooled(labels_N, ranks, drawn_RC[start : start + step][:, cluster_N]))
    return np.concatenate(values, axis=1)


Ranked = list[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]
"""For each stratum: its rows by rising score, and where each distinct score starts."""


def _ranked(scores_N: FloatArray, stratum_N: npt.NDArray[np.int64]) -> Ranked:
    found: Ranked = []
    for stratum in np.unique(stratum_N):
        rows = np.flatnonzero(stratum_N == stratum)
        rows = rows[np.argsort(scores_N[rows], kind="stable")]
        starts = np.flatnonzero(np.diff(scores_N[rows], prepend=-math.inf))
        found.append((rows, starts))
    return found


def _pooled(labels_N: npt.NDArray[np.bool_], ranks: Sequence[Ranked], weights_RN: FloatArray) -> FloatArray:
    """(detectors, R): right pairs over all pairs, both summed over strata."""
    positive_RN, negative_RN = weights_RN * labels_N, weights_RN * ~labels_N
    out = np.full((len(ranks), len(weights_RN)), math.nan)
    for d, ranked in enumerate(ranks):
        right_R, pairs_R = np.zeros(len(weights_RN)), np.zeros(len(weights_RN))
        for rows, starts in ranked:
            positive_RK = np.add.reduceat(positive_RN[:, rows], starts, axis=1)
            negative_RK = np.add.reduceat(negative_RN[:, rows], starts, axis=1)
            below_RK = np.cumsum(negative_RK, axis=1) - negative_RK / 2
            right_R += (positive_RK * below_RK).sum(axis=1)
            pairs_R += positive_RK.sum(axis=1) * negative_RK.sum(axis=1)
        np.divide(right_R, pairs_R, out=out[d], where=pairs_R > 0)
    return out


def _by_score(labels: npt.ArrayLike, scores: npt.ArrayLike) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Positives and negatives at each distinct score, scores rising."""
    labels_N, scores_N = _pair(labels, scores)
    score_K, at_N = np.unique(scores_N, return_inverse=True)
    positive_K = np.bincount(at_N, weights=labels_N, minlength=len(score_K)).astype(np.float64)
    negative_K = np.bincount(at_N, weights=~labels_N, minlength=len(score_K)).astype(np.float64)
    return positive_K, negative_K, score_K


def _pair(labels: npt.ArrayLike, scores: npt.ArrayLike) -> tuple[npt.NDArray[np.bool_], FloatArray]:
    """Labels as booleans, scores as floats. Raises DataError for other labels, NaN, unequal lengths."""
    labels_N, scores_N = np.asarray(labels), np.asarray(scores, dtype=np.float64)
    if labels_N.shape != scores_N.shape or labels_N.ndim != 1:
        raise DataError(
            expected="one score for each label", got=f"shapes {labels_N.shape} and {scores_N.shape}"
        )
    if not np.isin(labels_N, (0, 1)).all():
        raise DataError(expected="labels 0 and 1", got=f"{np.unique(labels_N)[:5].tolist()}")
    if np.isnan(scores_N).any():
        raise DataError(
            expected="a score for every row",
            got=f"NaN in {int(np.isnan(scores_N).sum())} of {len(scores_N)}",
            hint="leave out rows without features before judging",
        )
    return labels_N.astype(bool), scores_N


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
