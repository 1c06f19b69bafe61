"""Controls: each finds just what it may know; what cannot be had says why."""

import numpy as np
import pytest

from sightline.config.probing import ProbeSettings, SplitSettings
from sightline.probes.controls import best_control, run_controls
from sightline.probes.results import Rows
from sightline.probes.splits import split_rows

SETTINGS = ProbeSettings(head="linear", epochs=4, lr=1e-2)
N = 600


def world(seed=0):
    """Hallucination depends on the kind of question and on its words, and on nothing else."""
    rng = np.random.default_rng(seed)
    kinds = rng.choice(["exists", "color"], size=N)
    nouns = rng.choice(["dog", "unicorn"], size=N)
    share = 0.15 + 0.35 * (kinds == "exists") + 0.35 * (nouns == "unicorn")
    labels = (rng.random(N) < share).astype(np.int64)
    images = [f"image_{i}" for i in rng.integers(0, 150, size=N)]
    questions = [
        f"{'Is there a' if k == 'exists' else 'What colour is the'} {n}?"
        for k, n in zip(kinds, nouns, strict=True)
    ]
    rows = Rows(labels, images, kinds.tolist(), questions, ["world"] * N)
    features = {
        "vision_only": rng.normal(size=(150, 8)).astype(np.float32)[[int(i[6:]) for i in images]],
        "query_token.layer_1": (rng.normal(size=(N, 8)) + labels[:, None]).astype(np.float32),
    }
    return rows, features


@pytest.fixture(scope="module")
def controls():
    rows, features = world()
    split = split_rows(rows.labels_N, SplitSettings(), images=rows.images)
    return run_controls(rows, split, SETTINGS, features=features, resamples=200)


def test_the_kind_scores_over_all_and_nothing_within(controls):
    kind = controls["question_type"]
    assert kind["auroc"]["low"] > 0.5
    assert kind["within_kind"]["value"] == pytest.approx(0.5)


def test_the_words_know_more_than_the_kind(controls):
    words = controls["text_only"]
    assert words["auroc"]["value"] > controls["question_type"]["auroc"]["value"]
    assert words["within_kind"]["low"] > 0.5


def test_the_image_that_knows_nothing_is_chance(controls):
    assert controls["image_only"]["auroc"]["low"] < 0.5 < controls["image_only"]["auroc"]["high"]


def test_shuffled_labels_take_the_signal_away(controls):
    """They run at query_token.layer_1, which does know the label; their range is that of the shuffles."""
    shuffled = controls["shuffled_labels"]["auroc"]
    assert 0.3 < shuffled["value"] < 0.7
    assert shuffled["low"] < shuffled["value"] < shuffled["high"]
    assert "query_token.layer_1" in controls["shuffled_labels"]["note"]


def test_the_rival_is_the_strongest_and_never_the_shuffle(controls):
    assert best_control(controls)[0] == "text_only"
    assert best_control({"shuffled_labels": controls["shuffled_labels"]}) is None


def test_what_is_missing_says_why():
    rows, features = world()
    split = split_rows(rows.labels_N, SplitSettings(), images=rows.images)
    none = run_controls(rows, split, SETTINGS, features={}, resamples=20)
    assert none["image_only"]["auroc"] is None
    assert "not extracted" in none["image_only"]["note"]
    constant = {"vision_only": np.ones_like(features["vision_only"])}
    refused = run_controls(rows, split, SETTINGS, features=constant, resamples=20)
    assert "same vector" in refused["image_only"]["note"]


def test_questions_without_words_score_nothing():
    rows, _ = world()
    silent = Rows(rows.labels_N, rows.images, rows.kinds, ["?"] * N, rows.sources)
    split = split_rows(rows.labels_N, SplitSettings(), images=rows.images)
    found = run_controls(silent, split, SETTINGS, features={}, resamples=20)
    assert found["text_only"]["auroc"]["value"] == 0.5
