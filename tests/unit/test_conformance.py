"""What every model family must hold, checked on a tiny random instance of its real classes."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny import FAMILIES, fresh_vlm, random_image, sample_prompts, tiny_vlm

from sightline.errors import SpanError, UnknownFamilyError
from sightline.models.adapters import adapter_for
from sightline.models.prompts import Prompt
from sightline.models.vlm import Vlm

ANSWERS = ["Yes.", "Red.", "A cat and a couch are in the kitchen.", "No, there is no cat.", "Two."]
TOLERANCE = 2e-5
"""fp32, sums of up to a dozen log-probabilities of size 10."""


@pytest.fixture(params=FAMILIES)
def vlm(request: pytest.FixtureRequest) -> Vlm:
    return tiny_vlm(request.param)


def full_call(vlm: Vlm, prompt: Prompt, answer: str = "") -> dict[str, torch.Tensor]:
    """The processor's own call on the chat template's own string, answer appended."""
    processor = vlm.processor
    if vlm.model.config.model_type == "instructblip":
        text = prompt.text + (f" {answer}</s>" if answer else "")
        batch = processor(images=prompt.image, text=prompt.text, return_tensors="pt")
        ids = processor(images=prompt.image, text=text, return_tensors="pt")["input_ids"]
        return {**batch, "input_ids": ids, "attention_mask": torch.ones_like(ids)}
    content = [{"type": "text", "text": prompt.text}]
    if prompt.image is not None:
        content.insert(0, {"type": "image"})
    messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
    text = processor.apply_chat_template(messages, add_generation_prompt=True)
    if answer:
        frame = vlm.adapter.frame(processor, prompt.image is not None)
        messages.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
        whole = processor.apply_chat_template(messages)
        end = whole.rindex(answer) + len(answer)
        assert whole.startswith(text)
        text = whole[:end] + frame.end
    images = None if prompt.image is None else [prompt.image]
    return dict(processor(images=images, text=[text], return_tensors="pt"))


def plain_logprob(vlm: Vlm, prompt: Prompt, answer: str) -> float:
    """Sum over the answer's tokens from one forward of the model class on the processor's full output."""
    inputs, before = full_call(vlm, prompt, answer), full_call(vlm, prompt)["input_ids"].shape[1]
    with torch.inference_mode():
        logits_TV = vlm.model(**inputs).logits[0].double()
    ids_T = inputs["input_ids"][0]
    logprobs = logits_TV[before - 1 : -1].log_softmax(-1)
    return float(logprobs.gather(1, ids_T[before:, None]).sum())


# -- encoding ---------------------------------------------------------------------------
def test_ids_and_pixels_equal_the_processors_full_call(vlm: Vlm):
    for prompt, answer in zip(sample_prompts(), ANSWERS, strict=True):
        for given in ("", answer):
            row = vlm.encode([prompt], [given] if given else None)[0]
            expected = full_call(vlm, prompt, given)
            assert row.ids == expected["input_ids"][0].tolist()
            batch = vlm.collate([row])
            for name in vlm.adapter.image_tensors:
                assert torch.equal(batch[name], expected[name]), name


def test_spans_hold_what_they_say(vlm: Vlm):
    decode = vlm.tokenizer.decode
    for prompt, answer, row in zip(
        sample_prompts(), ANSWERS, vlm.encode(sample_prompts(), ANSWERS), strict=True
    ):
        spans = row.spans
        assert decode(row.ids[spans.question]).strip() == prompt.text
        assert decode(row.answer_ids, skip_special_tokens=True).strip() == answer
        assert row.ids[-1] == vlm.end_id
        assert row.ids[-1] in vlm.stop_ids
        image_ids = [row.ids[i] for i in spans.image_indices()]
        assert image_ids == [vlm.image_token_id] * row.ids.count(vlm.image_token_id)
        assert row.image is not None
        assert len(image_ids) == row.image.num_tokens > 0
        # In order, touching, to the end.
        assert spans.image[-1].stop <= spans.question.start
        assert spans.question.stop == spans.generation.start
        assert spans.generation.stop == spans.answer.start
        assert spans.answer.stop == len(row.ids)
        if vlm.model.config.model_type != "instructblip":
            assert "assistant" in decode(row.ids[spans.generation]).lower()


def test_one_feature_vector_for_each_image_token(vlm: Vlm):
    rows = vlm.encode(sample_prompts()[:2])
    features = vlm.adapter.encode_images(vlm.model, rows)
    width = vlm.adapter.embeddings(vlm.model).weight.shape[1]
    assert [tuple(f.shape) for f in features] == [(r.image.num_tokens, width) for r in rows if r.image]


def test_an_image_object_is_processed_once(vlm: Vlm, monkeypatch: pytest.MonkeyPatch):
    calls = []
    original = type(vlm.adapter).image_inputs
    monkeypatch.setattr(type(vlm.adapter), "image_inputs", lambda *a: calls.append(a[-1]) or original(*a))
    prompts = sample_prompts()
    rows = vlm.encode(prompts)
    assert len(calls) == 2
    assert rows[0].image is rows[2].image


def test_a_placeholder_in_a_question_is_refused(vlm: Vlm):
    token = str(vlm.processor.image_token)
    with pytest.raises(SpanError, match="placeholder"):
        vlm.encode([Prompt(random_image(0), f"What is {token}?")])


def test_an_empty_question_is_refused(vlm: Vlm):
    with pytest.raises(SpanError, match="visible"):
        vlm.encode([Prompt(random_image(0), " ")])


# -- numbers ----------------------------------------------------------------------------
def test_scores_equal_a_plain_forward_of_the_model_class(vlm: Vlm):
    prompts = sample_prompts()
    scored = vlm.score(prompts, ANSWERS)
    for prompt, answer, got in zip(prompts, ANSWERS, scored, strict=True):
        assert got.logprob == pytest.approx(plain_logprob(vlm, prompt, answer), abs=TOLERANCE)
        assert got.text == answer


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_padded_batch_gives_the_unpadded_logits(vlm: Vlm, side: Any):
    rows = vlm.encode(sample_prompts(), ANSWERS)
    batch = vlm.collate(rows, side)
    with torch.inference_mode():
        logits_BTV = vlm.model(**batch).logits
        for b, row in enumerate(rows):
            alone_TV = vlm.model(**vlm.collate([row])).logits[0]
            start = batch["input_ids"].shape[1] - len(row) if side == "left" else 0
            torch.testing.assert_close(
                logits_BTV[b, start : start + len(row)], alone_TV, atol=2e-5, rtol=1e-4
            )


def test_generation_equals_transformers_greedy(vlm: Vlm):
    prompts = sample_prompts()
    answers = vlm.generate(prompts, max_new_tokens=12, batch_size=4)
    for prompt, row, samples in zip(prompts, vlm.encode(prompts), answers, strict=True):
        inputs = full_call(vlm, prompt)
        eos = sorted(vlm.stop_ids)
        ids = vlm.model.generate(**inputs, max_new_tokens=12, do_sample=False, eos_token_id=eos)[0].tolist()
        # InstructBLIP's generate may return the new tokens alone.
        new = ids[len(row) :] if ids[: len(row)] == row.ids else ids
        assert list(samples[0].token_ids) == new


def test_three_together_equal_three_alone(vlm: Vlm):
    prompts, answers = sample_prompts()[:3], ANSWERS[:3]
    together = vlm.generate(prompts, max_new_tokens=10, batch_size=3)
    alone = [vlm.generate([p], max_new_tokens=10, batch_size=1)[0] for p in prompts]
    assert [s[0].token_ids for s in together] == [s[0].token_ids for s in alone]
    for a, b in zip(together, alone, strict=True):
        assert a[0].logprob == pytest.approx(b[0].logprob, abs=TOLERANCE)
    scored = vlm.score(prompts, answers, batch_size=3)
    for prompt, answer, got in zip(prompts, answers, scored, strict=True):
        single = vlm.score([prompt], [answer], batch_size=1, reuse_prefix=False)[0]
        assert got.logprob == pytest.approx(single.logprob, abs=TOLERANCE)


def test_a_prompt_without_an_image(vlm: Vlm):
    if vlm.model.config.model_type == "instructblip":
        pytest.skip("InstructBLIP takes no prompt without an image")
    text_only = Prompt(None, "Is there a dog?")
    row = vlm.encode([text_only])[0]
    assert row.ids == full_call(vlm, text_only)["input_ids"][0].tolist()
    assert row.spans.image == ()
    mixed = [sample_prompts()[0], text_only]
    together = [s[0].token_ids for s in vlm.generate(mixed, max_new_tokens=5)]
    assert together == [vlm.generate([p], max_new_tokens=5)[0][0].token_ids for p in mixed]


# -- structure --------------------------------------------------------------------------
def test_the_adapter_finds_every_part(vlm: Vlm):
    adapter, model, config = vlm.adapter, vlm.model, vlm.model.config
    assert len(adapter.vision_blocks(model)) == 2
    assert len(adapter.text_blocks(model)) == config.get_text_config().num_hidden_layers == 3
    assert [tuple(o.weight.shape) for o in adapter.attention_outputs(model)] == [(64, 64)] * 3
    assert tuple(adapter.lm_head(model).weight.shape) == (config.get_text_config().vocab_size, 64)
    assert tuple(adapter.final_norm(model).weight.shape) == (64,)
    assert adapter.model_class(config) is type(model)
    assert vlm.image_token_id == config.image_token_id


@pytest.mark.parametrize("family", FAMILIES)
def test_bfloat16_answers_and_stays_near_fp32(family: str):
    exact, rough = tiny_vlm(family), fresh_vlm(family)
    rough.model.to(torch.bfloat16)
    prompts = sample_prompts()
    assert all(s[0].token_ids for s in rough.generate(prompts, max_new_tokens=3))
    for a, b in zip(exact.score(prompts, ANSWERS), rough.score(prompts, ANSWERS), strict=True):
        assert a.logprob == pytest.approx(b.logprob, rel=0.1)


def test_a_checkpoint_comes_back_equal(vlm: Vlm, tmp_path):
    vlm.save(tmp_path)
    loaded = Vlm.load(str(tmp_path))
    prompts = sample_prompts()[:3]
    for mine, theirs in zip(vlm.encode(prompts), loaded.encode(prompts), strict=True):
        assert mine.ids == theirs.ids
        assert mine.image is not None
        assert theirs.image is not None
        for name, tensor in mine.image.tensors.items():
            assert torch.equal(tensor, theirs.image.tensors[name]), name
    before, after = (v.generate(prompts, max_new_tokens=6) for v in (vlm, loaded))
    assert [a[0].token_ids for a in before] == [a[0].token_ids for a in after]


def test_an_unknown_family_is_refused_with_the_known_ones():
    with pytest.raises(UnknownFamilyError, match="mllama") as caught:
        adapter_for("mllama")
    for family in FAMILIES:
        assert family in str(caught.value)
    with pytest.raises(UnknownFamilyError, match="smolvlm"):
        Vlm(SimpleNamespace(config=SimpleNamespace(model_type="bert")), None)


def test_eager_attention_gives_the_same_answers():
    prompts = sample_prompts()
    for family in ("smolvlm", "qwen2_vl"):
        sdpa, eager = tiny_vlm(family), tiny_vlm(family, "eager")
        expected = sdpa.generate(prompts, max_new_tokens=10, batch_size=4)
        got = eager.generate(prompts, max_new_tokens=10, batch_size=4)
        assert [s[0].token_ids for s in got] == [s[0].token_ids for s in expected]
        for a, b in zip(sdpa.score(prompts, ANSWERS), eager.score(prompts, ANSWERS), strict=True):
            assert dataclasses.replace(a, logprob=0.0) == dataclasses.replace(b, logprob=0.0)
            assert a.logprob == pytest.approx(b.logprob, abs=TOLERANCE)
