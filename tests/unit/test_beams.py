"""Beams and samples: transformers' answers, in any batch."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tiny import FAMILIES, fresh_vlm, sample_prompts, tiny_vlm
from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from sightline.decoding.beams import Beams
from sightline.decoding.frontier import Frontier
from sightline.decoding.sampling import Nucleus, Sampler
from sightline.errors import ModelError
from sightline.models.prompts import Prompt
from sightline.models.vlm import Vlm
from sightline.records import Answer


def stock(vlm: Vlm, prompt: Prompt, **settings: Any) -> tuple[int, ...]:
    """What transformers answers to one prompt, up to the stop token."""
    (row,) = vlm.encode([prompt])
    with torch.inference_mode():
        ids = vlm.model.generate(
            **vlm.collate([row]),
            do_sample=False,
            eos_token_id=sorted(vlm.stop_ids),
            pad_token_id=vlm.tokenizer.pad_token_id,
            **settings,
        )
    ids = ids[0, len(row) :].tolist()
    return tuple(ids[: next((n for n, token in enumerate(ids, 1) if token in vlm.stop_ids), len(ids))])


def with_early_stops(vlm: Vlm) -> Vlm:
    """Declare two frequent tokens stop tokens, so that answers end at different lengths."""
    ids = [i for p in sample_prompts() for i in stock(vlm, p, num_beams=3, max_new_tokens=6)[2:4]]
    vlm.model.generation_config.eos_token_id = [vlm.tokenizer.eos_token_id, ids[0], ids[-1]]
    return vlm


# -- transformers' own ------------------------------------------------------------------
@pytest.mark.parametrize("family", FAMILIES)
def test_a_beam_answer_is_transformers_own_in_any_batch(family: str):
    vlm, prompts = tiny_vlm(family), sample_prompts()
    beams = Beams(3)
    together = beams.generate(vlm, prompts, max_new_tokens=5, batch_size=4)
    expected = [stock(vlm, p, num_beams=3, max_new_tokens=5) for p in prompts]
    assert [a.token_ids for a in together] == expected
    greedy = [samples[0].token_ids for samples in vlm.generate(prompts, max_new_tokens=5)]
    assert expected != greedy


def test_answers_end_with_their_stop_token_and_score_what_the_model_thinks_of_them():
    vlm, prompts = with_early_stops(fresh_vlm("smolvlm")), sample_prompts()
    # A negative penalty favours short answers.
    answers = Beams(3, length_penalty=-1.0).generate(vlm, prompts, max_new_tokens=8)
    assert True in {a.finished for a in answers}
    for prompt, answer in zip(prompts, answers, strict=True):
        assert answer.token_ids == stock(vlm, prompt, num_beams=3, length_penalty=-1.0, max_new_tokens=8)
        assert answer.finished == (answer.token_ids[-1] in vlm.stop_ids)
        assert answer.logprob == pytest.approx(logprob_of(vlm, prompt, answer), abs=1e-4)


def logprob_of(vlm: Vlm, prompt: Prompt, answer: Answer) -> float:
    (row,) = vlm.encode([prompt])
    whole = torch.tensor([row.ids + list(answer.token_ids)])
    inputs = vlm.collate([row]) | {"input_ids": whole, "attention_mask": torch.ones_like(whole)}
    with torch.inference_mode():
        logprobs = vlm.model(**inputs).logits[0, len(row) - 1 : -1].double().log_softmax(-1)
    return float(logprobs.gather(1, whole[0, len(row) :, None]).sum())


def test_the_checkpoints_generation_settings_are_out_of_the_way_and_put_back():
    vlm, prompts = fresh_vlm("instructblip"), sample_prompts()[:2]
    expected = [a.token_ids for a in Beams(2).generate(vlm, prompts, max_new_tokens=5)]
    configs = [vlm.model.generation_config, vlm.model.language_model.generation_config]
    for config in configs:
        config.repetition_penalty, config.do_sample, config.no_repeat_ngram_size = 9.0, True, 1
    assert [a.token_ids for a in Beams(2).generate(vlm, prompts, max_new_tokens=5)] == expected
    assert configs == [vlm.model.generation_config, vlm.model.language_model.generation_config]
    assert configs[0] is vlm.model.generation_config
    assert configs[0].repetition_penalty == 9.0


def test_prompts_with_and_without_an_image_come_back_in_order():
    vlm = tiny_vlm("smolvlm")
    shown = sample_prompts()
    prompts = [Prompt(None, "How many people?"), shown[0], Prompt(None, "Is there a dog?"), shown[1]]
    together = Beams(2).generate(vlm, prompts, max_new_tokens=4, batch_size=3)
    for prompt, answer in zip(prompts, together, strict=True):
        assert answer.token_ids == stock(vlm, prompt, num_beams=2, max_new_tokens=4)
    with pytest.raises(ModelError, match="with an image"):
        Beams(2).generate(tiny_vlm("instructblip"), prompts, max_new_tokens=4)


@pytest.mark.parametrize("wrong", [{"max_new_tokens": 0}, {"batch_size": 0}, {"max_new_tokens": 4096}])
def test_impossible_requests_are_refused(wrong: dict):
    with pytest.raises(ModelError, match="expected"):
        Beams(2).generate(tiny_vlm("smolvlm"), sample_prompts()[:1], **wrong)


def test_one_beam_is_refused():
    with pytest.raises(ModelError, match="greedy"):
        Beams(1)


# -- our bookkeeping of beams, as OPERA uses it -----------------------------------------
@pytest.mark.parametrize("length_penalty", [1.0, -1.0])
def test_a_frontier_with_the_models_scores_is_transformers_beam_search(length_penalty: float):
    vlm = with_early_stops(fresh_vlm("smolvlm"))
    finished = set()
    for prompt in sample_prompts()[:2]:
        (row,) = vlm.encode([prompt])
        frontier, limit = Frontier.start(3), 8
        while not frontier.closed:
            logprobs_KV = next_logprobs(vlm, row, frontier.tokens_KN)
            frontier, _, _ = frontier.step(
                np.tile(np.arange(logprobs_KV.shape[1]), (3, 1)),
                logprobs_KV,
                logprobs_KV,
                stop_ids=vlm.stop_ids,
                last=frontier.length + 1 == limit,
                length_penalty=length_penalty,
            )
        best = frontier.ended[0]
        expected = stock(vlm, prompt, num_beams=3, max_new_tokens=limit, length_penalty=length_penalty)
        assert best.token_ids == expected
        assert best.score == pytest.approx(best.logprob / len(expected) ** length_penalty)
        finished.add(expected[-1] in vlm.stop_ids)
    assert True in finished or length_penalty > 0


def next_logprobs(vlm: Vlm, row: Any, tokens_KN: np.ndarray) -> np.ndarray:
    """The model's log-probabilities of the next token after each beam, from whole passes."""
    rows = [row] * len(tokens_KN)
    whole = torch.tensor([row.ids + beam.tolist() for beam in tokens_KN])
    inputs = vlm.collate(rows) | {"input_ids": whole, "attention_mask": torch.ones_like(whole)}
    with torch.inference_mode():
        return vlm.model(**inputs).logits[:, -1].double().log_softmax(-1).numpy()


# -- sampling ---------------------------------------------------------------------------
def test_the_nucleus_is_transformers():
    logits_RV = torch.randn(4, 50, generator=torch.Generator().manual_seed(0)) * 3
    step: Any = SimpleNamespace(logits_KRV=logits_RV[None])
    for temperature, top_p, top_k in ((0.7, 0.9, 0), (1.5, 1.0, 5), (2.0, 0.6, 20), (1.0, 1e-9, 0)):
        stock = LogitsProcessorList([TemperatureLogitsWarper(temperature)])
        if top_k:
            stock.append(TopKLogitsWarper(top_k))
        if top_p < 1:
            stock.append(TopPLogitsWarper(top_p))
        expected_RV = stock(torch.zeros(4, 1, dtype=torch.long), logits_RV).softmax(-1)
        scores_RV = Nucleus(temperature, top_p, top_k).scores(step)
        torch.testing.assert_close((scores_RV / temperature).softmax(-1), expected_RV)
        assert scores_RV.isinf().any()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_sample_depends_on_its_prompt_and_seed_alone(family: str):
    vlm, prompts, sampler = tiny_vlm(family), sample_prompts(), Sampler(1.0, top_p=0.9, top_k=40)
    together = sampler.generate(vlm, prompts, max_new_tokens=5, seed=1)
    ids = [answer.token_ids for answer in together]
    assert [a.token_ids for a in sampler.generate(vlm, prompts[::-1], max_new_tokens=5, seed=1)] == ids[::-1]
    (alone,) = sampler.generate(vlm, prompts[2:3], max_new_tokens=5, seed=1)
    assert alone.token_ids == ids[2]
    assert [a.token_ids for a in sampler.generate(vlm, prompts, max_new_tokens=5, seed=2)] != ids


def test_the_likeliest_token_alone_is_greedy_and_all_tokens_are_plain_sampling():
    vlm, prompts = tiny_vlm("smolvlm"), sample_prompts()
    greedy = [s[0].token_ids for s in vlm.generate(prompts, max_new_tokens=5)]
    assert [a.token_ids for a in Sampler(1.0, top_k=1).generate(vlm, prompts, max_new_tokens=5)] == greedy
    plain = [s[0] for s in vlm.generate(prompts, max_new_tokens=5, temperature=0.8, seed=4)]
    assert Sampler(0.8).generate(vlm, prompts, max_new_tokens=5, seed=4) == plain


@pytest.mark.parametrize("wrong", [(0.0, 1.0, 0), (1.0, 0.0, 0), (1.0, 1.1, 0), (1.0, 1.0, -1)])
def test_impossible_samplings_are_refused(wrong: tuple[float, float, int]):
    with pytest.raises(ModelError, match="temperature"):
        Sampler(*wrong)
