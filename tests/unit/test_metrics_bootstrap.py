"""Bootstrap: closed forms, pairing, clustering, and everything that is undefined."""

import math

import numpy as np
import pytest

from sightline.errors import DataError
from sightline.metrics import bootstrap
from sightline.metrics.bootstrap import Ratio, estimate, paired_difference


def test_a_mean_gets_the_normal_interval():
    rng = np.random.default_rng(3)
    right = rng.random(2000) < 0.7
    result = estimate(Ratio.of(right), range(2000), seed=1)
    half_width = 1.96 * math.sqrt(right.mean() * (1 - right.mean()) / 2000)
    assert result.value == pytest.approx(right.mean())
    assert result.n == 2000
    assert result.low == pytest.approx(right.mean() - half_width, abs=0.003)
    assert result.high == pytest.approx(right.mean() + half_width, abs=0.003)


def test_rows_of_one_image_move_together():
    """Ten copies of each row say no more than one: clustered, the interval stays as wide."""
    rng = np.random.default_rng(0)
    right = (rng.random(100) < 0.5).astype(float)
    alone = estimate(Ratio.of(right), range(100))
    copied = estimate(Ratio.of(np.repeat(right, 10)), np.repeat(np.arange(100), 10).tolist())
    assert (copied.low, copied.high) == pytest.approx((alone.low, alone.high))
    assert copied.n == 1000


def test_a_ratio_of_sums_is_not_a_mean_of_ratios():
    assert Ratio.of([1, 1], [1, 3]).value == pytest.approx(0.5)


def test_a_constant_shift_has_no_spread_when_paired():
    rng = np.random.default_rng(0)
    before = rng.normal(10, 5, size=50)
    result = paired_difference(Ratio.of(before), Ratio.of(before - 2), range(50))
    assert (result.delta, result.low, result.high) == pytest.approx((-2, -2, -2))
    assert result.relative == pytest.approx(-2 / before.mean())


def test_paired_interval_of_flips_is_binomial():
    before, after = np.zeros(1000), np.zeros(1000)
    after[:100] = 1
    result = paired_difference(Ratio.of(before), Ratio.of(after), range(1000))
    assert result.delta == pytest.approx(0.1)
    assert result.low == pytest.approx(0.1 - 1.96 * math.sqrt(0.09 / 1000), abs=0.003)
    assert result.n == 1000
    assert math.isnan(result.relative), "from zero, no change is relative"


def test_same_seed_same_interval_and_chunking_bounds_memory_only(monkeypatch):
    ratio = Ratio.of(np.random.default_rng(1).random(40))
    first = estimate(ratio, range(40), seed=5)
    assert estimate(ratio, range(40), seed=5) == first
    assert estimate(ratio, range(40), seed=6) != first
    monkeypatch.setattr(bootstrap, "CELLS_PER_CHUNK", 400)
    chunked = estimate(ratio, range(40), seed=5)
    assert (chunked.low, chunked.high) == pytest.approx((first.low, first.high), abs=0.03)


@pytest.mark.parametrize("ratio", [Ratio.of([]), Ratio.of([0, 0], [0, 0])])
def test_an_undefined_value_is_nan_with_n_zero(ratio):
    result = estimate(ratio, range(len(ratio)))
    assert result.n == 0
    assert all(math.isnan(v) for v in (result.value, result.low, result.high))
    difference = paired_difference(ratio, ratio, range(len(ratio)))
    assert difference.n == 0
    assert math.isnan(difference.delta)
    assert math.isnan(difference.relative)


def test_undefined_on_one_side_makes_the_difference_undefined():
    result = paired_difference(Ratio.of([0, 0], [0, 0]), Ratio.of([1, 0], [1, 1]), ["a", "b"])
    assert math.isnan(result.before)
    assert result.after == 0.5
    assert result.n == 0


def test_one_image_gives_a_value_without_an_interval():
    result = estimate(Ratio.of([1, 0]), ["a", "a"])
    assert result.value == 0.5
    assert result.n == 2
    assert math.isnan(result.low)


def test_resamples_without_a_denominator_are_left_out():
    result = estimate(Ratio.of([1, 0, 0], [1, 0, 0]), ["a", "b", "c"])
    assert (result.value, result.low, result.high, result.n) == (1, 1, 1, 1)


def test_lengths_must_agree():
    with pytest.raises(DataError, match="numerator"):
        Ratio.of([1, 2], [1, 1, 1])
    with pytest.raises(DataError, match="same items"):
        paired_difference(Ratio.of([1]), Ratio.of([1, 1]), ["a"])
    with pytest.raises(DataError, match="cluster name"):
        estimate(Ratio.of([1, 1]), ["a"])
