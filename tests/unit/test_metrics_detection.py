"""Detection scores: closed forms, ties, sklearn as the oracle, clustered intervals."""

import math

import numpy as np
import pytest
from sklearn import metrics as oracle

from sightline.errors import DataError
from sightline.metrics import detection
from sightline.metrics.detection import (
    auprc,
    auroc,
    best_f1_threshold,
    clustered_auroc,
    confusion,
    reliability,
    resampled_aurocs,
    risk_coverage,
    roc_curve,
)


def drawn(seed, n=300, ties=False):
    rng = np.random.default_rng(seed)
    labels = (rng.random(n) < 0.3).astype(int)
    scores = np.clip(0.3 * labels + 0.7 * rng.random(n), 0, 1)
    return labels, np.round(scores, 1) if ties else scores


def test_auroc_in_closed_form():
    assert auroc([0, 0, 1, 1], [0.1, 0.2, 0.3, 0.4]) == 1.0
    assert auroc([1, 1, 0, 0], [0.1, 0.2, 0.3, 0.4]) == 0.0
    assert auroc([0, 1, 0, 1], [0.5] * 4) == 0.5, "a constant knows nothing, whatever the order of rows"
    assert auroc([0, 1, 1], [1, 1, 2]) == pytest.approx(0.75)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("ties", [False, True])
def test_sklearn_agrees(seed, ties):
    labels, scores = drawn(seed, ties=ties)
    assert auroc(labels, scores) == pytest.approx(oracle.roc_auc_score(labels, scores))
    assert auprc(labels, scores) == pytest.approx(oracle.average_precision_score(labels, scores))
    curve = roc_curve(labels, scores)
    x, y, _ = oracle.roc_curve(labels, scores, drop_intermediate=False)
    np.testing.assert_allclose(curve.x, x)
    np.testing.assert_allclose(curve.y, y)
    at, said = confusion(labels, scores, 0.5), scores >= 0.5
    assert at.accuracy == pytest.approx(oracle.accuracy_score(labels, said))
    assert at.precision == pytest.approx(oracle.precision_score(labels, said))
    assert at.recall == pytest.approx(oracle.recall_score(labels, said))
    assert at.f1 == pytest.approx(oracle.f1_score(labels, said))
    counts = [[at.true_negative, at.false_positive], [at.false_negative, at.true_positive]]
    np.testing.assert_array_equal(counts, oracle.confusion_matrix(labels, said))


@pytest.mark.parametrize("ties", [False, True])
def test_no_threshold_beats_the_best(ties):
    labels, scores = drawn(5, ties=ties)
    threshold, f1 = best_f1_threshold(labels, scores)
    assert confusion(labels, scores, threshold).f1 == pytest.approx(f1)
    assert f1 == pytest.approx(max(oracle.f1_score(labels, scores >= t) for t in np.unique(scores)))


def test_a_probe_that_never_alarms_has_zero_f1_not_an_exception():
    never = confusion([0, 1, 1], [0.1, 0.2, 0.3], 0.5)
    assert (never.precision, never.recall, never.f1) == (0.0, 0.0, 0.0)
    assert never.accuracy == pytest.approx(1 / 3)


def test_calibration_error_in_closed_form():
    assert reliability([0, 0, 1, 1], [0, 0, 1, 1]).ece == 0.0
    assert reliability([0, 0, 0, 1], [0.75] * 4).ece == pytest.approx(0.5)
    bins = reliability([0, 1, 1], [0.05, 0.95, 1.0])
    assert bins.count_B.tolist() == [1, 2], "1.0 belongs to the last bin, empty bins are left out"
    with pytest.raises(DataError, match="between 0 and 1"):
        reliability([0, 1], [-3.0, 2.0])


def test_answering_the_least_suspect_first():
    curve = risk_coverage([0, 0, 1, 1], [0.1, 0.2, 0.3, 0.3])
    np.testing.assert_allclose(curve.x, [0.25, 0.5, 1.0])
    np.testing.assert_allclose(curve.y, [0.0, 0.0, 0.5])


def test_one_class_is_undefined():
    for score in (auroc, auprc):
        assert math.isnan(score([0, 0], [0.1, 0.9]))
    assert math.isnan(best_f1_threshold([0, 0], [0.1, 0.9])[0])
    value, low, high = clustered_auroc([1, 1], [0.1, 0.9], ["a", "b"])
    assert all(map(math.isnan, (value, low, high)))


@pytest.mark.parametrize(
    ("labels", "scores", "why"),
    [
        ([0, 1], [0.1], "one score"),
        ([0, 2], [0.1, 0.2], "labels 0 and 1"),
        ([0, 1], [0.1, math.nan], "NaN in 1 of 2"),
    ],
)
def test_bad_input(labels, scores, why):
    with pytest.raises(DataError, match=why):
        auroc(labels, scores)
    with pytest.raises(DataError, match=why):
        clustered_auroc(labels, scores, range(len(labels)))


def test_resampling_equals_auroc_of_the_resampled_rows():
    """The vectorised form against sklearn on rows that are really copied."""
    labels, scores = drawn(1, n=60, ties=True)
    images = np.arange(60) // 3
    values = resampled_aurocs(labels, [scores], images, resamples=20, seed=4)[0]
    assert values[0] == pytest.approx(oracle.roc_auc_score(labels, scores))
    counts_RC = np.concatenate(list(detection.draws(20, 20, 4)))
    for value, counts_C in zip(values[1:], counts_RC, strict=True):
        rows = np.repeat(np.arange(60), counts_C[images].astype(int))
        assert value == pytest.approx(oracle.roc_auc_score(labels[rows], scores[rows]))


def test_the_interval_is_about_hanley_and_mcneils():
    labels, scores = drawn(2, n=2000)
    value, low, high = clustered_auroc(labels, scores, range(2000))
    positives, negatives = labels.sum(), (1 - labels).sum()
    q1, q2 = value / (2 - value), 2 * value**2 / (1 + value)
    variance = value * (1 - value) + (positives - 1) * (q1 - value**2) + (negatives - 1) * (q2 - value**2)
    half = 1.96 * math.sqrt(variance / (positives * negatives))
    assert (high - low) / 2 == pytest.approx(half, rel=0.2)
    assert low < value < high


def test_copies_of_an_image_add_no_certainty():
    labels, scores = drawn(3, n=100)
    alone = clustered_auroc(labels, scores, range(100))
    copied = clustered_auroc(
        np.repeat(labels, 5), np.repeat(scores, 5), np.repeat(np.arange(100), 5).tolist()
    )
    assert copied == pytest.approx(alone, abs=1e-9)


def test_within_a_kind_the_kind_no_longer_helps():
    """Every positive is a yes/no question: a score of the kind alone falls from high to 0.5."""
    labels = np.array([1, 0, 1, 0] * 20 + [0] * 80)
    kinds = ["yes_no"] * 80 + ["count"] * 80
    scores = np.array([1.0] * 80 + [0.0] * 80)
    assert auroc(labels, scores) == pytest.approx(2 / 3 + 1 / 6)
    value, low, high = clustered_auroc(labels, scores, range(160), strata=kinds)
    assert (value, low, high) == (0.5, 0.5, 0.5)


def test_detectors_are_compared_on_the_same_resamples():
    labels, scores = drawn(6)
    a, b = resampled_aurocs(labels, [scores, scores], range(300), resamples=50)
    np.testing.assert_array_equal(a, b)


def test_memory_is_bounded_not_the_result(monkeypatch):
    labels, scores = drawn(7)
    expected = clustered_auroc(labels, scores, range(300), resamples=64)
    monkeypatch.setattr(detection, "_CELLS_PER_CHUNK", 1000)
    assert clustered_auroc(labels, scores, range(300), resamples=64) == pytest.approx(expected)
