"""The preference losses against their closed forms."""

from __future__ import annotations

import math

import pytest
import torch

from sightline.training import losses
from sightline.training.losses import PairLogprobs


def pairs(chosen: list[float], rejected: list[float], tokens=(4, 2)) -> PairLogprobs:
    size = len(chosen)
    return PairLogprobs(
        torch.tensor(chosen, dtype=torch.float64),
        torch.tensor(rejected, dtype=torch.float64),
        torch.full((size,), tokens[0]),
        torch.full((size,), tokens[1]),
    )


POLICY = pairs([-2.0, -5.0], [-6.0, -3.0])
REFERENCE = pairs([-3.0, -4.0], [-4.0, -4.0])
MARGINS = [3.0, -2.0]  # ((-2 + 3) - (-6 + 4)), ((-5 + 4) - (-3 + 4))


def log_sigmoid(x: float) -> float:
    return -math.log1p(math.exp(-x))


@pytest.mark.parametrize(
    ("kind", "smoothing", "closed"),
    [
        ("sigmoid", 0.0, lambda m: -log_sigmoid(0.5 * m)),
        ("sigmoid", 0.1, lambda m: -0.9 * log_sigmoid(0.5 * m) - 0.1 * log_sigmoid(-0.5 * m)),
        ("ipo", 0.0, lambda m: (m - 1.0) ** 2),
        ("hinge", 0.0, lambda m: max(0.0, 1 - 0.5 * m)),
        ("robust", 0.2, lambda m: (-0.8 * log_sigmoid(0.5 * m) + 0.2 * log_sigmoid(-0.5 * m)) / 0.6),
    ],
)
def test_closed_form(kind, smoothing, closed):
    value = losses.terms(POLICY, REFERENCE, kind=kind, beta=0.5, label_smoothing=smoothing)["preference"]
    torch.testing.assert_close(value, torch.tensor([closed(m) for m in MARGINS], dtype=torch.float64))


def test_length_normalisation_divides_each_answer_by_its_own_length():
    value = losses.terms(POLICY, REFERENCE, kind="ipo", beta=0.5, length_normalized=True)["preference"]
    margins = [1 / 4 + 2 / 2, -1 / 4 - 1 / 2]
    torch.testing.assert_close(value, torch.tensor([(m - 1) ** 2 for m in margins], dtype=torch.float64))


def test_equal_models_lose_log_two():
    value = losses.terms(POLICY, POLICY, beta=3.0)["preference"]
    torch.testing.assert_close(value, torch.full((2,), math.log(2), dtype=torch.float64))


def test_weights_scale_pairs_and_terms():
    named = losses.terms(POLICY, REFERENCE, beta=0.5)
    total = losses.total(named, {"preference": 1.0, "sft": 0.5}, torch.tensor([2.0, 0.0]))
    expected = 2.0 * (named["preference"][0] + 0.5 * (2.0 / 4)) / 2
    torch.testing.assert_close(total, expected)


def test_robust_refuses_half_or_more_noise():
    with pytest.raises(ValueError, match="below 0.5"):
        losses.terms(POLICY, REFERENCE, kind="robust", label_smoothing=0.5)


def test_statistics_are_rewards_and_wins():
    seen = losses.statistics(POLICY, REFERENCE, beta=0.5)
    assert seen["margin"].tolist() == [1.5, -1.0]
    assert seen["accuracy"].tolist() == [1.0, 0.0]
