"""The order of the data is the same for every number of workers, and a resume finds its place."""

from __future__ import annotations

import numpy as np
import pytest

from sightline.errors import ConfigError
from sightline.training.plan import Plan, accumulation_steps, learning_rate

PLAN = Plan.of(10, global_batch=8, epochs=3, max_steps=None, seed=3)


def test_epochs_are_permutations_and_the_last_batch_is_full():
    assert PLAN.steps == 4
    order = np.concatenate([PLAN.batch(step) for step in range(PLAN.steps)])
    assert sorted(order[:10]) == sorted(order[10:20]) == sorted(order[20:30]) == list(range(10))
    assert list(order[:10]) != list(order[10:20])


@pytest.mark.parametrize(("world", "micro"), [(1, 8), (2, 4), (4, 2), (2, 1)])
def test_every_number_of_workers_sees_the_same_global_batch(world, micro):
    shares = [PLAN.share(2, rank=rank, world=world, micro_batch=micro) for rank in range(world)]
    assert sorted(np.concatenate([s.ravel() for s in shares])) == sorted(PLAN.batch(2))
    assert shares[0].shape == (8 // (world * micro), micro)


def test_an_uneven_cut_is_refused():
    with pytest.raises(ConfigError, match="multiple"):
        accumulation_steps(8, micro_batch=3, world=2)


def test_the_learning_rate_rises_and_falls():
    rates = [learning_rate(s, steps=10, peak=1.0, warmup_ratio=0.2, schedule="linear") for s in range(10)]
    assert rates[:3] == [0.5, 1.0, 1.0]
    assert rates[-1] == pytest.approx(1 / 8)
    assert learning_rate(9, steps=10, peak=2.0, warmup_ratio=0.0, schedule="constant") == 2.0
    assert learning_rate(5, steps=10, peak=2.0, warmup_ratio=0.0, schedule="cosine") == pytest.approx(1.0)
