"""SPIN and PAI: by hand on two heads, and against whole attention maps on every family."""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, log
from typing import Any

import pytest
import torch
from full_maps import Plain
from tiny import FAMILIES, fresh_vlm, sample_prompts, tiny_vlm

from sightline.errors import InterventionError, ModelError
from sightline.interventions.base import Intervention
from sightline.interventions.pai import Pai
from sightline.interventions.spin import Spin, gates, suppressed
from sightline.interventions.stack import Stack
from sightline.models.acting import Queries
from sightline.models.attention import AttentionCall
from sightline.models.passes import Pass
from sightline.models.prompts import Prompt
from sightline.models.vlm import Vlm
from sightline.records import Answer

TOKENS = 4


# -- by hand ------------------------------------------------------------------------------
def step_of(image: list[bool]) -> Queries:
    """A decoding step of one row that sees all keys."""
    zero = torch.zeros(1, dtype=torch.long)
    image_QS = torch.tensor([image])
    return Queries.of(Pass("decode", zero, zero, image_QS, torch.ones_like(image_QS), zero.bool()))


def call_of(query_HE: list[list[float]], keys_SE: list[list[float]], values_S: list[float]) -> AttentionCall:
    """One row, one token, as many query heads as given on one key head; scaling 1."""
    query_BHTE = torch.tensor(query_HE)[None, :, None]
    keys_BJSE = torch.tensor(keys_SE)[None, None]
    values_BJSE = torch.tensor(values_S)[None, None, :, None]

    def base() -> tuple[torch.Tensor, None]:
        weights = (query_BHTE @ keys_BJSE.mT).softmax(-1)
        return (weights @ values_BJSE).transpose(1, 2), None

    return AttentionCall(0, query_BHTE, keys_BJSE, values_BJSE, None, 1.0, base)


def test_spin_paper_keeps_the_head_with_more_attention_on_the_image():
    # Weights on the image (key 0): 2/3 in head 0, 1/3 in head 1; its value is 3, the text's 0.
    call = call_of([[log(2)], [-log(2)]], [[1.0], [0.0]], [3.0, 0.0])
    output = suppressed(call, step_of([True, False]), k=0.5, alpha=0.08, mode="paper")
    torch.testing.assert_close(output.flatten(), torch.tensor([2.0, 1.0 * 0.08]))


def test_spin_released_ranks_by_logits_before_the_softmax():
    # Head 0: logits 1 (image), 5 (text); head 1: 0 and -5. Mass says head 1, logits say head 0.
    def output(mode: Any) -> list[float]:
        call = call_of([[1.0, 5.0], [0.0, -5.0]], [[1.0, 0.0], [0.0, 1.0]], [1.0, 1.0])
        return suppressed(call, step_of([True, False]), k=0.5, alpha=0.0, mode=mode).flatten().tolist()

    assert output("paper") == pytest.approx([0.0, 1.0])
    assert output("released") == pytest.approx([1.0, 0.0])


def test_the_number_of_heads_kept_is_truncated():
    scores_QH = torch.arange(32.0)[None]
    assert int(gates(scores_QH, int(0.95 * 32), 0.0).sum()) == 30
    assert gates(torch.tensor([[3.0, 1.0, 2.0]]), 2, 0.25).tolist() == [[1.0, 0.25, 1.0]]


def test_pai_lifts_logits_of_either_sign_and_spin_sees_what_it_did():
    call, queries = call_of([[-1.0]], [[1.0], [0.0]], [1.0, 0.0]), step_of([True, False])
    logits_QHS = call.logits_QHS(queries)
    boosted_QHS = logits_QHS + logits_QHS.abs() * 0.5 * queries.image_QS
    output = call.placed(queries, call.attend(queries, boosted_QHS))
    assert output.item() == pytest.approx(exp(-0.5) / (exp(-0.5) + 1))
    assert call.image_logits_QH(queries).item() == pytest.approx(-0.5)


# -- against whole maps -------------------------------------------------------------------
METHODS: dict[str, tuple[list[Intervention], Plain]] = {
    "pai": ([Pai(0.5)], Plain(pai_alpha=0.5)),
    "spin": ([Spin(0.5, 0.08)], Plain(spin_k=0.5)),
    "spin released": (
        [Spin(0.75, 0.0, mode="released")],
        Plain(spin_k=0.75, spin_alpha=0.0, spin_mode="released"),
    ),
    "both": ([Spin(0.5, 0.2), Pai(0.3)], Plain(0.3, 0.5, 0.2)),
    "both released": ([Pai(0.3), Spin(0.5, mode="released")], Plain(0.3, 0.5, spin_mode="released")),
}


def check_against_maps(vlm: Vlm, interventions: list[Intervention], plain: Plain) -> None:
    """Batched answers over packed prefixes are those of each row's whole maps, token by token."""
    prompts, text_only = sample_prompts(), Prompt(None, "Is there a dog?")
    with Stack(interventions).attached(vlm):
        *answers, (blind,) = vlm.generate([*prompts, text_only], max_new_tokens=TOKENS, batch_size=4)
    for row, (answer,) in zip(vlm.encode(prompts), answers, strict=True):
        logits_AV = plain.logits(vlm, row, answer.token_ids)
        assert tuple(logits_AV.argmax(-1).tolist()) == answer.token_ids
        assert chosen_logprob(logits_AV, answer.token_ids) == pytest.approx(answer.logprob, abs=1e-3)
    assert blind.token_ids == vlm.generate([text_only], max_new_tokens=TOKENS)[0][0].token_ids


def chosen_logprob(logits_AV: torch.Tensor, token_ids: Sequence[int]) -> float:
    """The sum of the tokens' log-probabilities."""
    return float(logits_AV.log_softmax(-1).gather(1, torch.tensor(token_ids)[:, None]).sum())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("method", "attention"), [("both", "sdpa"), ("spin released", "eager")])
def test_every_family_answers_as_with_whole_maps(family: str, method: str, attention: str):
    check_against_maps(tiny_vlm(family, attention), *METHODS[method])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_every_method_answers_as_with_whole_maps(method: str, attention: str):
    check_against_maps(tiny_vlm("smolvlm", attention), *METHODS[method])


def test_scored_answers_are_changed_as_decoded_ones():
    vlm, prompts = tiny_vlm("llava"), sample_prompts()
    answers = ["Yes, a dog.", "Red.", "A cat and a couch.", "No.", "Two."]
    interventions, plain = METHODS["both"]
    with Stack(interventions).attached(vlm):
        scored = vlm.score(prompts, answers, batch_size=3)
    for row, answer in zip(vlm.encode(prompts), scored, strict=True):
        logits_AV = plain.logits(vlm, row, answer.token_ids)
        assert chosen_logprob(logits_AV, answer.token_ids) == pytest.approx(answer.logprob, abs=1e-3)


# -- who is touched -----------------------------------------------------------------------
@pytest.mark.parametrize("intervention", [Spin(0.5), Spin(0.5, mode="released"), Pai()])
def test_rows_without_an_image_and_other_tokens_stay_bit_for_bit(intervention: Intervention):
    vlm = tiny_vlm("llava")
    first, *rest = [*sample_prompts()[:2], Prompt(None, "How many people?")]
    answers = ["Yes.", "Red.", "Two people."]

    def seen() -> tuple[list[Answer], list[list[Answer]], torch.Tensor]:
        with torch.inference_mode():
            logits_1TV = vlm.model(**vlm.collate(vlm.encode([first]))).logits
        prompts = [first, *rest]
        return vlm.score(prompts, answers), vlm.generate(prompts, max_new_tokens=3), logits_1TV[0]

    scored, generated, logits_TV = seen()
    with Stack([intervention]).attached(vlm):
        now_scored, now_generated, now_TV = seen()
    assert now_scored[2] == scored[2]
    assert now_generated[2] == generated[2]
    assert torch.equal(now_TV[:-1], logits_TV[:-1])
    assert not torch.allclose(now_TV[-1], logits_TV[-1])
    assert all(now_scored[i].logprob != scored[i].logprob for i in range(2))


def test_beams_of_a_padded_batch_are_those_of_each_prompt_alone():
    vlm, prompts = tiny_vlm("llava"), sample_prompts()[:3]
    rows, settings = vlm.encode(prompts), {"max_new_tokens": 5, "num_beams": 3, "do_sample": False}
    with torch.inference_mode(), Stack([Spin(0.5), Pai()]).attached(vlm):
        inputs = vlm.collate(rows, "left")
        together = vlm.model.generate(**inputs, **settings)[:, inputs["input_ids"].shape[1] :]
        for row, expected in zip(rows, together.tolist(), strict=True):
            alone = vlm.model.generate(**vlm.collate([row]), **settings)[0, len(row) :].tolist()
            assert alone == expected[: len(alone)]


def test_half_precision_stays_half_precision():
    vlm = fresh_vlm("llava")
    vlm.model.to(torch.bfloat16)
    plain = vlm.generate(sample_prompts(), max_new_tokens=3)
    for intervention in (Spin(0.25, 0.0), Spin(0.25, 0.0, mode="released"), Pai(0.5)):
        with Stack([intervention]).attached(vlm):
            changed = vlm.generate(sample_prompts(), max_new_tokens=3)
        assert [a.logprob for (a,) in changed] != [a.logprob for (a,) in plain]
        assert all(a.logprob < 0 for (a,) in changed)


def test_all_heads_kept_is_no_change():
    vlm, prompts = tiny_vlm("llava"), sample_prompts()
    with Stack([Spin(1.0, 0.0)]).attached(vlm):
        assert vlm.generate(prompts, max_new_tokens=3) == tiny_vlm("llava").generate(
            prompts, max_new_tokens=3
        )


# -- bad input ----------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("intervention", "words"),
    [
        (Spin(1.5), "share k"),
        (Spin(-0.1), "share k"),
        (Spin(float("nan")), "share k"),
        (Spin(alpha=float("inf")), "finite alpha"),
        (Spin(layers=[3]), "layers from 0 to 2"),
        (Pai(float("nan")), "finite alpha"),
        (Pai(layers=[0, -1]), "layers from 0 to 2"),
    ],
)
def test_settings_out_of_range_are_refused(intervention: Intervention, words: str):
    with pytest.raises(InterventionError, match=words):
        intervention.check(tiny_vlm("llava"))


def test_an_unknown_backend_is_refused(monkeypatch: pytest.MonkeyPatch):
    vlm = tiny_vlm("llava")
    config: Any = vlm.adapter.decoder(vlm.model).config
    monkeypatch.setattr(config, "_attn_implementation_internal", "flash_attention_2")
    for intervention in (Spin(), Pai()):
        with pytest.raises(ModelError, match="sdpa or eager"):
            intervention.check(vlm)
