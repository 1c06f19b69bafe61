"""What the current forward pass is said to be, by the engines and by stock calls."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from steered import our_hooks, stock
from tiny import FAMILIES, random_image, sample_prompts, tiny_vlm
from transformers import StaticCache

from sightline.errors import InterventionError
from sightline.models.passes import Pass, Passes, announce, listening, step_pass
from sightline.models.prompts import Prompt
from sightline.models.vlm import Vlm


@contextmanager
def watching(vlm: Vlm) -> Iterator[list[Pass]]:
    """Every pass as a hook of block 0 sees it."""
    seen: list[Pass] = []
    with listening(vlm) as passes:
        block = vlm.adapter.text_blocks(vlm.model)[0]
        handle = block.register_forward_pre_hook(lambda module, args: seen.append(passes.current))
        try:
            yield seen
        finally:
            handle.remove()


def counts(current: Pass) -> list[tuple[int, int]]:
    """How many keys, and how many image tokens, each acting query sees."""
    return list(zip(current.visible_QS.sum(1).tolist(), current.image_QS.sum(1).tolist(), strict=True))


def test_a_step_in_closed_form():
    images_RP, starts_R = torch.tensor([[0, 2], [1, -1], [-1, -1]]), torch.tensor([0, 2, 1])
    step = step_pass(images_RP, starts_R, 5)
    assert step.phase == "decode"
    assert step.group_Q.tolist() == [0, 1, 2]
    assert step.place_Q.tolist() == [0, 0, 0]
    assert step.image_QS.int().tolist() == [[1, 0, 1, 0, 0], [0, 0, 0, 1, 0], [0, 0, 0, 0, 0]]
    assert step.visible_QS.int().tolist() == [[1, 1, 1, 1, 1], [0, 0, 1, 1, 1], [0, 1, 1, 1, 1]]
    assert step.answer_Q.all()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("reuse_prefix", [True, False])
def test_the_engine_says_who_acts_and_what_is_image(family: str, reuse_prefix: bool):
    vlm = tiny_vlm(family)
    prompts = [*sample_prompts(), Prompt(None, "Is there a dog?")]
    rows = vlm.encode(prompts)
    with watching(vlm) as seen:
        vlm.generate(prompts, max_new_tokens=3, batch_size=12, reuse_prefix=reuse_prefix)
    first, *steps = seen
    assert first.phase == "prefill"
    assert not first.answer_Q.any()
    # Each acting query sees its own row and nothing else, and the row's image tokens among it.
    wanted = sorted((len(row), len(row.spans.image_indices())) for row in rows)
    assert sorted(counts(first)) == wanted
    assert all(step.phase == "decode" and step.answer_Q.all() for step in steps)
    assert sorted(counts(steps[0])) == [(length + 1, images) for length, images in wanted]
    assert not any((step.image_QS & ~step.visible_QS).any() for step in seen)


def test_scored_answers_act_as_if_they_were_decoded():
    vlm = tiny_vlm("llava")
    prompt = sample_prompts()[0]
    rows = vlm.encode([prompt, prompt], ["Yes.", "No."])
    with watching(vlm) as seen:
        vlm.score([prompt, prompt], ["Yes.", "No."])
    shared = len(rows[0].prompt_ids)
    acting = list(zip(seen[0].place_Q.tolist(), seen[0].answer_Q.tolist(), strict=True))
    # The last prompt token once, then each answer's tokens but its last.
    assert (shared - 1, False) in acting
    assert len(seen[0].place_Q) == 1 + sum(len(row.answer_ids) - 1 for row in rows)
    assert int(seen[0].answer_Q.sum()) == len(seen[0].answer_Q) - 1


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("beams", [1, 3])
def test_stock_generate_announces_itself(family: str, beams: int):
    vlm = tiny_vlm(family)
    prompts = sample_prompts()
    rows = vlm.encode(prompts)
    with watching(vlm) as seen:
        stock(vlm, prompts, max_new_tokens=3, num_beams=beams, min_new_tokens=3)
    longest = max(len(row) for row in rows)
    images = [len(row.spans.image_indices()) for row in rows for _ in range(beams)]
    lengths = [len(row) for row in rows for _ in range(beams)]
    assert [p.phase for p in seen] == ["prefill", "decode", "decode"]
    for step, current in enumerate(seen):
        assert current.group_Q.tolist() == list(range(len(images)))
        assert current.place_Q.tolist() == [longest - 1 if step == 0 else 0] * len(images)
        assert current.image_QS.sum(1).tolist() == images
        assert current.visible_QS.sum(1).tolist() == [length + step for length in lengths]
        assert current.image_QS.shape[1] == longest + step


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_stock_forward_finds_the_last_token_on_either_side_of_the_padding(side: Any):
    vlm = tiny_vlm("llava")
    rows = vlm.encode(sample_prompts())
    with watching(vlm) as seen, torch.inference_mode():
        vlm.model(**vlm.collate(rows, side))
    longest = max(len(row) for row in rows)
    assert seen[0].place_Q.tolist() == [longest - 1 if side == "left" else len(row) - 1 for row in rows]
    assert seen[0].visible_QS.sum(1).tolist() == [len(row) for row in rows]


def test_what_cannot_be_described_is_refused_when_asked_for():
    vlm = tiny_vlm("llava")
    inputs = vlm.collate(vlm.encode(sample_prompts()[:1]))
    text: Any = vlm.model.config.text_config
    static = StaticCache(config=text, max_cache_len=64)
    with watching(vlm), pytest.raises(InterventionError, match="static"), torch.inference_mode():
        vlm.model(**inputs, past_key_values=static)
    with torch.inference_mode():
        elsewhere = vlm.model(**inputs, use_cache=True).past_key_values
        ids = inputs["input_ids"][:, :1]
        with watching(vlm), pytest.raises(InterventionError, match="filled elsewhere"):
            vlm.model(input_ids=ids, past_key_values=elsewhere)
        with watching(vlm), pytest.raises(InterventionError, match="one token a step"):
            vlm.model(input_ids=inputs["input_ids"][:, :2], past_key_values=elsewhere)


def test_listening_nests_and_leaves_nothing_behind():
    vlm = tiny_vlm("smolvlm")
    with listening(vlm) as outer, listening(vlm) as inner:
        assert inner is outer
        with pytest.raises(InterventionError, match="under way"):
            _ = outer.current
        vlm.generate([Prompt(None, "Is there a dog?")], max_new_tokens=2)
        assert outer.forwards == 2
        assert not outer.saw_image
        vlm.generate([Prompt(random_image(0), "Is there a dog?")], max_new_tokens=1)
        assert outer.saw_image
        with pytest.raises(InterventionError, match="under way"):
            _ = outer.current
    assert not our_hooks(vlm)
    announce(vlm.model, lambda: pytest.fail("nobody listens"))


def test_an_announcement_is_described_once_and_only_when_asked_for():
    made = []
    passes = Passes(image_token_id=0, window=None)

    def make() -> Pass:
        made.append(1)
        return step_pass(torch.tensor([[0]]), torch.tensor([0]), 2)

    passes.announced(make)
    assert not made
    assert passes.current is passes.current
    assert made == [1]
