"""What a search chooses from, what a trial is worth, and how the winner is compared."""

from __future__ import annotations

import math
import pickle

import numpy as np
import optuna
import pytest

from sightline.config.probing import ProbeSettings
from sightline.config.sweep_probe import ProbeSpace
from sightline.distributed.sweeps import SearchData, to_trial
from sightline.probes.epochs import Epoch
from sightline.probes.search import Course, SearchSpace, best_of, compare

SITES = ("vision_only", "query_token.layer_12", "query_token.embedding", "query_token.layer_3")
SPACE = SearchSpace(SITES, ProbeSpace(), patience=5)


def data(epochs: int = 10) -> SearchData:
    return SearchData(SPACE, ProbeSettings(epochs=epochs), np.zeros(4, np.int64), 2, 0, "cpu")


def test_layers_are_suggested_in_their_order():
    assert SPACE.by_kind()["query_token"] == [
        "query_token.embedding",
        "query_token.layer_3",
        "query_token.layer_12",
    ]
    assert SPACE.site({"kind": "query_token", "layer_of_query_token": 1}) == "query_token.layer_3"
    assert SPACE.site({"kind": "vision_only"}) == "vision_only"


def test_every_suggestion_is_a_probe_within_the_ranges():
    space = pickle.loads(pickle.dumps(SPACE))  # Ray Tune's snapshots hold it
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    seen = set()
    for _ in range(60):
        trial = study.ask()
        space(trial)
        choice, ranges = trial.params, ProbeSpace()
        seen.add(space.site(choice))
        settings = space.settings(choice, ProbeSettings(epochs=7))
        assert (settings.epochs, settings.patience) == (7, 5)
        assert ranges.lr[0] <= settings.lr <= ranges.lr[1]
        assert ("widths" in choice) == ("dropout" in choice) == (settings.head == "mlp")
        if settings.head == "mlp":
            assert settings.widths in ranges.widths
    assert seen == set(SITES)


def test_a_course_is_worth_its_kept_weights():
    course = Course()
    losses = ((0.7, 0.60), (0.5, 0.70), (0.6, 0.99), (math.nan, math.nan), (0.4, 0.65))
    for i, (loss, auroc) in enumerate(losses, start=1):
        course.add(Epoch(i, 0.0, loss, auroc))
    assert course.kept == [0.60, 0.70, 0.70, 0.70, 0.65]
    diverged = Course()
    diverged.add(Epoch(1, math.nan, math.nan, math.nan))
    assert diverged.kept == [0.5]


@pytest.mark.parametrize(
    ("metrics", "error", "end"),
    [
        ({"curve": [0.6, 0.7]}, "", "overtaken"),
        ({"curve": [0.6, 0.7], "ended": 1}, "", "patience"),
        ({"curve": [0.6] * 10}, "", "epochs"),
        ({"curve": [0.6]}, "died", "failed"),
        ({}, "", "failed"),
    ],
)
def test_why_a_trial_ended(metrics, error, end):
    choice = {"kind": "vision_only", "head": "linear"}
    trial = to_trial(data(), metrics | {"trial_id": "a"}, choice, error)
    assert trial.end == end
    assert math.isnan(trial.auroc) == (end == "failed")
    sound = to_trial(data(), {"curve": [0.55], "trial_id": "b"}, choice, "")
    assert best_of([trial, sound]) == (sound if end == "failed" else trial)


def test_winner_and_default_are_compared_on_the_same_images():
    labels_N = np.asarray([0, 1] * 20)
    images = [i // 2 for i in range(40)]
    right_N, coin_N = labels_N.astype(float), np.zeros(40)
    default, winner, difference = compare(
        labels_N, [coin_N, coin_N], [right_N, coin_N], images, resamples=100, level=0.95
    )
    assert (default.value, winner.value) == (0.5, 0.75)  # the mean over seeds
    assert (difference.delta, difference.low, difference.high) == (0.25, 0.25, 0.25)
    assert difference.n == 40
    _, _, none = compare(labels_N, [right_N], [right_N], images, resamples=100, level=0.95)
    assert (none.delta, none.low, none.high) == (0.0, 0.0, 0.0)
