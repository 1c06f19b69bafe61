"""Reference log-probabilities are computed once, and another model's are refused by name."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from PIL import Image

from sightline.config.dpo import DpoConfig
from sightline.config.loader import parse
from sightline.distributed.reference_cache import identity_parts, reference_logprobs
from sightline.errors import CacheMismatchError, ImageError
from sightline.models.prompts import Prompt
from sightline.models.vlm import Vlm
from sightline.records import PreferencePair


@pytest.fixture
def config(tmp_path) -> DpoConfig:
    return parse(DpoConfig, [f"run.root={tmp_path}", "training.precision=float32", "training.micro_batch=2"])


@pytest.fixture
def pairs(tmp_path) -> list[PreferencePair]:
    Image.new("RGB", (96, 96), "red").save(tmp_path / "red.png")
    uri = str(tmp_path / "red.png")
    return [
        PreferencePair(f"p{i}", "e", uri, uri, "Is there a dog?", "", *answers, "cm")
        for i, answers in enumerate([("Yes.", "No."), ("A dog.", "Two cups."), ("No.", "Yes.")])
    ]


def compute(config, pairs, **identity):
    named = identity_parts(config) | identity
    return reference_logprobs(config, pairs, f"{config.run.folder}/cache", identity=named, ray=False)


def test_values_are_the_models_own_scores_and_are_kept(config, pairs):
    found = compute(config, pairs)
    vlm = Vlm.load("world", dtype="float32", device="cpu")
    prompts = [Prompt(Image.open(p.image_uri).convert("RGB"), p.question) for p in pairs]
    scores = [answer.logprob for answer in vlm.score(prompts, [p.chosen for p in pairs])]
    np.testing.assert_allclose(found.chosen_N, scores, atol=1e-4)
    assert found.kept == pairs
    again = compute(config, pairs)
    np.testing.assert_array_equal(again.rejected_N, found.rejected_N)


@pytest.mark.parametrize("part", ["model", "processor", "template", "precision"])
def test_a_cache_of_another_model_is_refused_by_name(config, pairs, part):
    compute(config, pairs)
    with pytest.raises(CacheMismatchError, match=f"{part}: .* in the cache, other now"):
        compute(config, pairs, **{part: "other"})


def test_a_cache_of_other_rows_is_refused(config, pairs):
    compute(config, pairs)
    changed = [*pairs[:2], dataclasses.replace(pairs[2], chosen="No, never.")]
    with pytest.raises(CacheMismatchError, match=r"rows: 1 differ.*p2"):
        compute(config, changed)


def test_an_unreadable_image_costs_its_own_pairs(config, pairs, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"not an image")
    broken = dataclasses.replace(pairs[1], image_uri=str(tmp_path / "broken.png"))
    found = compute(config, [pairs[0], broken, pairs[2]])
    assert [pair.pair_id for pair in found.kept] == ["p0", "p2"]
    assert found.unreadable == 1
    assert np.isfinite(found.chosen_N).all()


def test_nothing_readable_is_an_error(config, pairs, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"not an image")
    broken = [dataclasses.replace(pair, image_uri=str(tmp_path / "broken.png")) for pair in pairs]
    with pytest.raises(ImageError, match="at least one pair"):
        compute(config, broken)
