"""Significance: exact tests against hand counts and scipy, corrections against worked examples."""

import math

import numpy as np
import pytest
from scipy.stats import binomtest

from sightline.errors import DataError
from sightline.metrics.bootstrap import Ratio, paired_difference
from sightline.metrics.significance import adjust, benjamini_hochberg, holm, mcnemar, normal_p


def test_mcnemar_by_hand():
    # Of four changed items three became right: 2 * (C(4,0) + C(4,1)) / 16.
    before = [1, 1, 0, 0, 0, 0]
    after = [1, 0, 1, 1, 1, 0]
    assert mcnemar(before, after) == pytest.approx(10 / 16)
    assert mcnemar(before, before) == 1.0
    assert mcnemar([], []) == 1.0


@pytest.mark.parametrize("seed", range(5))
def test_mcnemar_is_the_binomial_test(seed):
    rng = np.random.default_rng(seed)
    before, after = rng.random(400) < 0.6, rng.random(400) < 0.7
    gained, lost = int((~before & after).sum()), int((before & ~after).sum())
    assert mcnemar(before, after) == pytest.approx(binomtest(gained, gained + lost).pvalue, rel=1e-9)


def test_mcnemar_holds_out_where_floats_end():
    before, after = np.ones(6000, dtype=bool), np.ones(6000, dtype=bool)
    after[:3000] = False
    assert 0 <= mcnemar(before, after) < 1e-300


def test_mcnemar_refuses_other_items():
    with pytest.raises(DataError, match="same items"):
        mcnemar([1, 0], [1])


def test_normal_p():
    assert normal_p(1.959964, 1.0) == pytest.approx(0.05, abs=1e-6)
    assert normal_p(-1.959964, 1.0) == pytest.approx(0.05, abs=1e-6)
    assert normal_p(0.0, 0.0) == 1.0
    assert normal_p(0.1, 0.0) == 0.0
    assert math.isnan(normal_p(math.nan, 1.0))


def test_corrections_by_hand():
    p = [0.01, 0.04, 0.03, 0.005]
    # Holm: 0.005*4, 0.01*3, 0.03*2, then 0.04 may not fall below 0.06.
    assert holm(p) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    # Benjamini-Hochberg from the largest down: 0.04*4/4, 0.03*4/3, 0.01*4/2, 0.005*4/1.
    assert benjamini_hochberg(p) == pytest.approx([0.02, 0.04, 0.04, 0.02])
    assert adjust(p, "none") == p
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    with pytest.raises(DataError, match="holm"):
        adjust(p, "bonferroni")


def test_undefined_is_no_member_of_the_family():
    adjusted = holm([0.02, math.nan, 0.03])
    assert adjusted[0] == pytest.approx(0.04)
    assert math.isnan(adjusted[1])
    assert holm([]) == []


def test_a_difference_knows_its_standard_error():
    rng = np.random.default_rng(0)
    before, after = (Ratio.of(rng.random(400) < share) for share in (0.5, 0.6))
    found = paired_difference(before, after, range(400), resamples=4000)
    expected = np.std(after.numerator_N - before.numerator_N) / math.sqrt(400)
    assert found.error == pytest.approx(expected, rel=0.05)
    assert math.isnan(paired_difference(before, after, [0] * 400).error), "one image says nothing"
