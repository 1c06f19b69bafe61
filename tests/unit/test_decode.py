"""Decoding many rows at once: shared prefixes, rows that leave and join, sampling."""

from __future__ import annotations

import math
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny import FAMILIES, fresh_vlm, random_image, sample_prompts, tiny_vlm

from sightline.errors import ModelError
from sightline.models import prefix
from sightline.models.decode import check_length
from sightline.models.prompts import Prompt
from sightline.models.vlm import Vlm
from sightline.records import Answer


@pytest.fixture
def vlm() -> Vlm:
    return tiny_vlm("smolvlm")


def mining_prompts(images: int = 3) -> list[Prompt]:
    """Image with context, another image with context, image alone: for two questions each."""
    pictures = [random_image(i, 40 + 10 * i, 40) for i in range(images + 1)]
    prompts = []
    for i in range(images):
        for question in ("Is there a dog in the image?", "Describe this image in detail."):
            context = f"There are {i} people. " * (i + 1)
            prompts += [
                Prompt(pictures[i], question, context),
                Prompt(pictures[i + 1], question, context),
                Prompt(pictures[i], question),
            ]
    return prompts


def ids(answers: list[list[Answer]]) -> list[list[tuple[int, ...]]]:
    return [[a.token_ids for a in samples] for samples in answers]


# -- the tree ---------------------------------------------------------------------------
def test_the_tree_shares_what_agrees_and_hides_the_rest(vlm: Vlm):
    rows = [SimpleNamespace(ids=list(s), image=None) for s in ([1, 2, 3, 4], [1, 2, 5], [1, 2, 3], [9])]
    adapter = SimpleNamespace(positions=lambda model, row: torch.arange(len(row.ids))[None])
    packed = prefix.pack(adapter, None, rows, [[0, 1, 2], [3]])
    assert packed.ids_GT.tolist() == [[1, 2, 3, 4, 5], [9, 0, 0, 0, 0]]
    assert packed.positions_AGT[0, 0].tolist() == [0, 1, 2, 3, 2]
    assert [p.tolist() for p in packed.path_R] == [[0, 1, 2, 3], [0, 1, 4], [0, 1, 2], [0]]
    assert packed.visible_GTT is not None
    assert packed.visible_GTT[0, 4].tolist() == [True, True, False, False, True]
    assert packed.visible_GTT[0, 3].tolist() == [True, True, True, True, False]
    assert packed.visible_GTT.diagonal(dim1=1, dim2=2).all()


def test_without_branches_there_is_no_mask(vlm: Vlm):
    rows = vlm.encode(sample_prompts()[:2])
    assert prefix.pack(vlm.adapter, vlm.model, rows, [[0], [1]]).visible_GTT is None


@pytest.mark.parametrize("family", FAMILIES)
def test_an_image_is_encoded_once_and_answers_stay_the_same(family: str, monkeypatch: pytest.MonkeyPatch):
    vlm, prompts = tiny_vlm(family), mining_prompts()
    expected = vlm.generate(prompts, max_new_tokens=8, reuse_prefix=False, batch_size=5)
    encoded = []
    original = type(vlm.adapter).encode_images

    def spy(adapter, model, rows):
        encoded.extend(adapter.image_key(row) for row in rows)
        return original(adapter, model, rows)

    monkeypatch.setattr(type(vlm.adapter), "encode_images", spy)
    got = vlm.generate(prompts, max_new_tokens=8, batch_size=4)  # smaller than an image's rows
    assert ids(got) == ids(expected)
    assert len(encoded) == len(set(encoded))
    if family != "instructblip":  # its image features depend on the question
        assert len(encoded) == 4


def test_fewer_tokens_are_computed_than_asked(vlm: Vlm):
    rows = vlm.encode(mining_prompts())
    groups = prefix.group_rows(vlm.adapter, rows)
    packed = prefix.pack(vlm.adapter, vlm.model, rows, groups)
    trees = [{int(i) for r in group for i in packed.path_R[r]} for group in groups]
    assert sum(map(len, trees)) < 0.6 * sum(map(len, rows))


# -- rows that leave and join -----------------------------------------------------------
@pytest.mark.parametrize("batch_size", [1, 2, 3, 7, 100])
def test_the_batch_size_changes_nothing(vlm: Vlm, batch_size: int):
    prompts = mining_prompts()
    stop_early(vlm := fresh_vlm("smolvlm"), prompts)
    expected = [vlm.generate([p], max_new_tokens=20, batch_size=1)[0] for p in prompts]
    lengths = {len(samples[0].token_ids) for samples in expected}
    assert len(lengths) > 3  # answers of many lengths, so rows do leave and join
    got = vlm.generate(prompts, max_new_tokens=20, batch_size=batch_size)
    assert ids(got) == ids(expected)
    for a, b in zip(got, expected, strict=True):
        assert a[0].finished == b[0].finished
        assert a[0].logprob == pytest.approx(b[0].logprob, abs=5e-5)


def stop_early(vlm: Vlm, prompts: list[Prompt]) -> None:
    """Declare the tokens that random answers use most as stop tokens: answers get short and uneven."""
    answers = vlm.generate(prompts, max_new_tokens=20)
    used = Counter(token for samples in answers for token in samples[0].token_ids[2:])
    vlm.model.generation_config.eos_token_id = [token for token, _ in used.most_common(8)]


def test_an_answer_ends_with_its_stop_token_or_is_unfinished(vlm: Vlm):
    vlm = fresh_vlm("smolvlm")
    stop_early(vlm, mining_prompts())
    for samples in vlm.generate(mining_prompts(), max_new_tokens=6):
        answer = samples[0]
        assert not set(answer.token_ids[:-1]) & vlm.stop_ids
        assert answer.finished == (answer.token_ids[-1] in vlm.stop_ids)
        assert answer.finished or len(answer.token_ids) == 6


def test_a_generated_answer_scores_what_generation_said(vlm: Vlm):
    prompts = sample_prompts()
    for prompt, samples in zip(prompts, vlm.generate(prompts, max_new_tokens=5), strict=True):
        row = vlm.encode([prompt])[0]
        whole = torch.tensor([row.ids + list(samples[0].token_ids)])
        inputs = vlm.collate([row]) | {"input_ids": whole, "attention_mask": torch.ones_like(whole)}
        with torch.inference_mode():
            logprobs = vlm.model(**inputs).logits[0, len(row) - 1 : -1].double().log_softmax(-1)
        total = logprobs.gather(1, whole[0, len(row) :, None]).sum()
        assert samples[0].logprob == pytest.approx(float(total), abs=2e-5)


def test_several_answers_to_one_prompt_are_scored_like_single_ones(vlm: Vlm):
    prompt = sample_prompts()[0]
    answers = ["Yes.", "No.", "Yes, there is a dog.", "Yes."]
    together = vlm.score([prompt] * 4, answers)
    for answer, got in zip(answers, together, strict=True):
        assert got.logprob == pytest.approx(vlm.score([prompt], [answer])[0].logprob, abs=2e-5)
    assert together[0].token_ids[-1] == vlm.end_id


# -- sampling ---------------------------------------------------------------------------
def test_samples_depend_on_seed_and_prompt_only(vlm: Vlm):
    prompts = mining_prompts(2)
    options = {"max_new_tokens": 8, "temperature": 1.0, "num_samples": 3}
    base = ids(vlm.generate(prompts, seed=1, **options))
    assert ids(vlm.generate(prompts, seed=1, batch_size=2, **options)) == base
    assert ids(vlm.generate(prompts[::-1], seed=1, **options))[::-1] == base
    assert ids(vlm.generate(prompts[3:4], seed=1, **options)) == base[3:4]
    assert ids(vlm.generate(prompts, seed=2, **options)) != base
    assert all(len(set(samples)) > 1 for samples in base)


def test_samples_follow_the_models_distribution(vlm: Vlm):
    prompt = sample_prompts()[0]
    row = vlm.encode([prompt])[0]
    with torch.inference_mode():
        probs = vlm.model(**vlm.collate([row])).logits[0, -1].div(4.0).softmax(-1)
    n = 2000
    samples = vlm.generate([prompt], max_new_tokens=1, temperature=4.0, num_samples=n, batch_size=500)[0]
    counts = Counter(s.token_ids[0] for s in samples)
    for token in probs.topk(5).indices.tolist():
        p = float(probs[token])
        assert counts[token] / n == pytest.approx(p, abs=4 * math.sqrt(p * (1 - p) / n))


def test_the_global_random_state_is_left_alone(vlm: Vlm):
    torch.manual_seed(0)
    np.random.seed(0)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()
    vlm.generate(sample_prompts()[:1], max_new_tokens=3, temperature=1.0)
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == np.random.get_state()[1].tolist()


# -- edges ------------------------------------------------------------------------------
def test_nothing_in_nothing_out(vlm: Vlm):
    assert vlm.generate([]) == []
    assert vlm.score([], []) == []
    assert vlm.encode([]) == []


def test_training_mode_is_put_back():
    vlm = fresh_vlm("smolvlm")
    vlm.model.train()
    vlm.generate(sample_prompts()[:1], max_new_tokens=1)
    assert vlm.model.training


@pytest.mark.parametrize(
    "wrong", [{"max_new_tokens": 0}, {"num_samples": 0}, {"batch_size": 0}, {"temperature": -1.0}]
)
def test_impossible_settings_are_refused(vlm: Vlm, wrong: dict):
    with pytest.raises(ModelError, match="max_new_tokens"):
        vlm.generate(sample_prompts()[:1], **wrong)


def test_as_many_answers_as_prompts(vlm: Vlm):
    with pytest.raises(ModelError, match="5 answers"):
        vlm.score(sample_prompts(), ["Yes."])


def test_a_sequence_past_the_models_positions_is_refused(vlm: Vlm):
    with pytest.raises(ModelError, match="4096 tokens"):
        vlm.generate(sample_prompts()[:1], max_new_tokens=4096)


def test_a_sliding_window_that_would_cut_is_refused():
    vlm = fresh_vlm("qwen2_vl")
    config = vlm.adapter.decoder(vlm.model).config
    config.layer_types, config.sliding_window = ["sliding_attention"] * 3, 50
    check_length(vlm.adapter, vlm.model, 50)
    with pytest.raises(ModelError, match="50 tokens"):
        check_length(vlm.adapter, vlm.model, 51)
