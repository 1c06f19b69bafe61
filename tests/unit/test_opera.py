"""OPERA on models: the look-ahead's cache and attention, beams, rollbacks, batches, stacks."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from tiny import FAMILIES, fresh_vlm, sample_prompts, tiny_vlm

from sightline.decoding import retrospection
from sightline.decoding.beams import Beams
from sightline.decoding.lookahead import LookAhead
from sightline.decoding.opera import Opera
from sightline.decoding.retrospection import OverTrust
from sightline.errors import ModelError
from sightline.interventions.pai import Pai
from sightline.interventions.spin import Spin
from sightline.interventions.stack import Stack
from sightline.models.prefix import SharedForward
from sightline.models.prompts import Prompt
from sightline.models.vlm import Vlm
from sightline.records import Answer

LEANING = {"num_beams": 2, "candidates": 3, "scale": 500.0, "threshold": 2}
"""Penalties and rollbacks within a few tokens of a random model."""


@pytest.fixture
def no_place_is_early(monkeypatch: pytest.MonkeyPatch):
    """Let answers too short for the real rule go back."""
    monkeypatch.setattr("sightline.decoding.overtrust.EARLY", 0)


def answered(vlm: Vlm, opera: Opera, prompts: Sequence[Prompt], batch_size: int = 16) -> list[Answer]:
    return opera.generate(vlm, prompts, max_new_tokens=7, batch_size=batch_size)


# -- the look-ahead ---------------------------------------------------------------------
@pytest.mark.parametrize("family", ["smolvlm", "qwen2_vl", "instructblip"])
def test_a_candidate_beside_others_is_what_it_is_alone(family: str):
    vlm, look = tiny_vlm(family, "eager"), LookAhead(tiny_vlm(family, "eager"))
    rows = vlm.encode(sample_prompts()[:2])
    ids_RC = torch.tensor([[50, 60, 70], [80, 90, 100]])
    with vlm.inference(), look.attached():
        forward = SharedForward(vlm.adapter, vlm.model, vlm.image_token_id)
        forward.parts(rows, 4)
        cache, _, positions = look.prompts(forward, rows, 1)
        hidden_RCD, weights_RCS, image_RC = look.branches(cache, ids_RC, torch.tensor(positions))
        logits_RCV = look.logits(hidden_RCD)
    for r, row in enumerate(rows):
        for c in range(3):
            whole = torch.tensor([[*row.ids, int(ids_RC[r, c])]])
            inputs = vlm.collate([row]) | {"input_ids": whole, "attention_mask": torch.ones_like(whole)}
            if "mm_token_type_ids" in inputs:
                inputs["mm_token_type_ids"] = torch.nn.functional.pad(inputs["mm_token_type_ids"], (0, 1))
            with torch.inference_mode():
                outputs = vlm.model(**inputs, output_attentions=True)
            torch.testing.assert_close(logits_RCV[r, c], outputs.logits[0, -1], atol=2e-4, rtol=1e-4)
            attentions = getattr(outputs, "attentions", None) or outputs.language_model_outputs.attentions
            largest_T = attentions[-1][0, :, -1].amax(0)
            largest_T = largest_T / largest_T.sum()
            seen = [*range(cache.length - 3 - len(row), cache.length - 3), cache.length - 3 + c]
            torch.testing.assert_close(weights_RCS[r, c, seen], largest_T, atol=1e-5, rtol=1e-4)
            assert weights_RCS[r, c].sum() == pytest.approx(1.0, abs=1e-5)
            on_image = largest_T[row.spans.image_indices()].sum()
            assert float(image_RC[r, c]) == pytest.approx(float(on_image), abs=1e-5)


# -- beams ------------------------------------------------------------------------------
@pytest.mark.parametrize("family", FAMILIES)
def test_without_penalty_and_restriction_it_is_transformers_beam_search(
    family: str, monkeypatch: pytest.MonkeyPatch
):
    vlm, prompts = tiny_vlm(family), sample_prompts()[:3]
    # As many candidates as beam search looks at, and the scores of the whole vocabulary.
    enough = 3 * (1 + len(vlm.stop_ids))
    opera = Opera(OverTrust(num_beams=3, candidates=enough, penalty=0.0, threshold=999))
    monkeypatch.setattr(retrospection.Search, "_gains", lambda search, found, penalty_KC: found.logprobs_KC)
    got = answered(vlm, opera, prompts)
    expected = Beams(3).generate(vlm, prompts, max_new_tokens=7)
    assert [a.token_ids for a in got] == [a.token_ids for a in expected]
    for a, b in zip(got, expected, strict=True):
        assert a.logprob == pytest.approx(b.logprob, abs=1e-4)


# -- neighbours -------------------------------------------------------------------------
@pytest.mark.parametrize("mode", ["paper", "released"])
@pytest.mark.parametrize("family", FAMILIES)
def test_an_answer_does_not_depend_on_its_neighbours(family: str, mode: str, no_place_is_early: None):
    vlm, prompts = tiny_vlm(family), sample_prompts()
    opera = Opera(OverTrust(**LEANING, mode=mode))  # type: ignore[arg-type]
    together = answered(vlm, opera, prompts)
    assert opera.cost.rollbacks > 0
    for batch_size in (1, 2):
        again = answered(vlm, opera, prompts[::-1], batch_size)[::-1]
        assert [a.token_ids for a in again] == [a.token_ids for a in together]
        for a, b in zip(again, together, strict=True):
            assert a.logprob == pytest.approx(b.logprob, abs=1e-4)
    plain = Beams(2).generate(vlm, prompts, max_new_tokens=7)
    assert [a.token_ids for a in together] != [a.token_ids for a in plain]


def test_the_attention_backend_changes_nothing(no_place_is_early: None):
    answers = [
        answered(tiny_vlm("smolvlm", attention), Opera(OverTrust(**LEANING)), sample_prompts())  # type: ignore[arg-type]
        for attention in ("sdpa", "eager")
    ]
    assert [a.token_ids for a in answers[0]] == [a.token_ids for a in answers[1]]


def test_what_is_restored_by_a_rollback_is_what_was_there(no_place_is_early: None):
    """Going back to a position and forbidding nothing answers as if nothing had happened."""
    vlm, prompts = tiny_vlm("smolvlm"), sample_prompts()
    trust = OverTrust(**LEANING)  # type: ignore[arg-type]
    without = answered(vlm, Opera(OverTrust(**LEANING | {"threshold": 999})), prompts)  # type: ignore[arg-type]
    opera = Opera(trust)
    with pytest.MonkeyPatch.context() as patch:
        original = retrospection.Search._go_back

        def go_back(search: retrospection.Search, position: int) -> retrospection.Rollback:
            outcome = original(search, position)
            search.forbidden = {}
            return outcome

        patch.setattr(retrospection.Search, "_go_back", go_back)
        again = answered(vlm, opera, prompts)
    assert opera.cost.rollbacks > 3
    assert [a.token_ids for a in again] == [a.token_ids for a in without]
    assert [a.token_ids for a in answered(vlm, opera, prompts)] != [a.token_ids for a in without]


def test_a_token_takes_one_pass_and_what_is_kept_is_told():
    vlm, opera = tiny_vlm("smolvlm"), Opera()
    answers = opera.generate(vlm, sample_prompts(), max_new_tokens=5)
    assert opera.cost.passes == 5
    assert opera.cost.rollbacks == 0
    assert opera.cost.kept_bytes > 0
    assert [len(a.token_ids) for a in answers] == [5] * 5


def test_answers_end_with_their_stop_token():
    vlm = fresh_vlm("smolvlm")
    answers = answered(vlm, Opera(), sample_prompts())
    vlm.model.generation_config.eos_token_id = sorted({a.token_ids[3] for a in answers})
    for answer in answered(vlm, Opera(), sample_prompts()):
        assert not set(answer.token_ids[:-1]) & vlm.stop_ids
        assert answer.finished == (answer.token_ids[-1] in vlm.stop_ids)


# -- under a stack ----------------------------------------------------------------------
def test_attention_is_read_after_pais_boost_and_spin_leaves_it_alone():
    vlm, prompts = tiny_vlm("smolvlm"), sample_prompts()[:2]
    last = vlm.num_layers - 1

    def attention_on_the_image(*stack: Pai | Spin) -> torch.Tensor:
        look, rows = LookAhead(vlm), vlm.encode(prompts)
        with Stack(stack).attached(vlm), vlm.inference(), look.attached():
            forward = SharedForward(vlm.adapter, vlm.model, vlm.image_token_id)
            forward.parts(rows, 4)
            cache, _, positions = look.prompts(forward, rows, 1)
            return look.branches(cache, torch.tensor([[50, 60], [90, 80]]), torch.tensor(positions))[2]

    plain_RC = attention_on_the_image()
    # In the last layer only, so what enters it is the same.
    torch.testing.assert_close(attention_on_the_image(Spin(k=0.5, layers=[last])), plain_RC)
    assert (attention_on_the_image(Pai(4.0, layers=[last])) > plain_RC + 0.01).all()
    both_RC = attention_on_the_image(Spin(k=0.5, layers=[last]), Pai(4.0, layers=[last]))
    torch.testing.assert_close(both_RC, attention_on_the_image(Pai(4.0, layers=[last])))


def test_under_a_stack_neighbours_change_nothing_and_rollbacks_restore(no_place_is_early: None):
    vlm, prompts = tiny_vlm("smolvlm"), sample_prompts()
    opera = Opera(OverTrust(**LEANING))  # type: ignore[arg-type]
    with Stack([Spin(k=0.5, alpha=0.0), Pai(2.0)]).attached(vlm):
        together = answered(vlm, opera, prompts)
        assert opera.cost.rollbacks > 0
        again = answered(vlm, opera, prompts[::-1], 1)[::-1]
    assert [a.token_ids for a in again] == [a.token_ids for a in together]
    assert [a.token_ids for a in together] != [a.token_ids for a in answered(vlm, opera, prompts)]


# -- refusals ---------------------------------------------------------------------------
@pytest.mark.parametrize("wrong", [{"max_new_tokens": 0}, {"batch_size": 0}, {"max_new_tokens": 4096}])
def test_impossible_requests_are_refused(wrong: dict):
    with pytest.raises(ModelError, match="expected"):
        Opera().generate(tiny_vlm("smolvlm"), sample_prompts()[:1], **wrong)


def test_a_backend_whose_attention_cannot_be_read_is_refused(monkeypatch: pytest.MonkeyPatch):
    vlm = tiny_vlm("smolvlm")
    monkeypatch.setattr(
        vlm.adapter.decoder(vlm.model).config, "_attn_implementation_internal", "flash_attention_2"
    )
    with pytest.raises(ModelError, match="sdpa"):
        Opera().check(vlm)


def test_nothing_in_nothing_out():
    assert Opera().generate(tiny_vlm("smolvlm"), []) == []
