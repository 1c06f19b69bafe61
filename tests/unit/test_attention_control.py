"""Attention control reads what eager's maps would show, changes nothing by itself, and leaves no trace."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny import FAMILIES, sample_prompts, tiny_vlm

from sightline.errors import ModelError
from sightline.models.acting import Acting
from sightline.models.attention import AttentionCall, attention_control
from sightline.models.passes import listening
from sightline.models.vlm import Vlm


class Reader:
    """Notes the acting queries' weights of each call."""

    def __init__(self, acting: Acting | None = None):
        self.acting = acting
        self.weights: list[torch.Tensor] = []
        self.layers: list[int] = []

    def __call__(self, call: AttentionCall) -> torch.Tensor:
        self.layers.append(call.layer)
        if self.acting is not None:
            self.weights.append(call.weights_QHS(self.acting.queries))
        return call.output_BTHE


def configs(vlm: Vlm) -> list[tuple[int, str]]:
    """Each module's config, and what it says of attention."""
    found = [getattr(module, "config", None) for module in vlm.model.modules()]
    return [(id(c), c._attn_implementation) for c in found if hasattr(c, "_attn_implementation")]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", FAMILIES)
def test_reading_changes_no_answer_and_leaves_no_trace(family: str, attention: str):
    vlm, prompts = tiny_vlm(family, attention), sample_prompts()
    before = configs(vlm)
    plain = vlm.generate(prompts, max_new_tokens=3)
    with listening(vlm) as passes:
        reader = Reader(Acting(passes))
        with attention_control(vlm, {0: [reader], 2: [reader]}):
            assert vlm.generate(prompts, max_new_tokens=3) == plain
    assert set(reader.layers) == {0, 2}
    assert configs(vlm) == before
    assert vlm.generate(prompts, max_new_tokens=3) == plain


@pytest.mark.parametrize("side", ["left", "right"])
def test_weights_are_the_rows_of_eagers_maps(side: Any):
    eager, vlm = tiny_vlm("smolvlm", "eager"), tiny_vlm("smolvlm")
    rows = vlm.encode(sample_prompts())
    inputs = vlm.collate(rows, side)
    with torch.inference_mode(), listening(vlm) as passes:
        maps = eager.model(**inputs, output_attentions=True).attentions
        reader = Reader(Acting(passes))
        with attention_control(vlm, {layer: [reader] for layer in range(3)}):
            vlm.model(**inputs)
    for layer, weights_QHS in enumerate(reader.weights):
        for b, row in enumerate(rows):
            last = -1 if side == "left" else len(row) - 1
            torch.testing.assert_close(weights_QHS[b], maps[layer][b, :, last], atol=1e-5, rtol=1e-4)


def test_eager_still_gives_its_maps():
    vlm = tiny_vlm("llava", "eager")
    inputs = vlm.collate(vlm.encode(sample_prompts()))
    with torch.inference_mode():
        plain = vlm.model(**inputs, output_attentions=True)
        with attention_control(vlm, {1: [Reader()]}):
            read = vlm.model(**inputs, output_attentions=True)
    for mine, theirs in zip(read.attentions, plain.attentions, strict=True):
        assert torch.equal(mine, theirs)
    assert torch.equal(read.logits, plain.logits)


def test_contexts_nest_and_the_inner_one_comes_last():
    vlm, order = tiny_vlm("llava"), []

    def says(name: str) -> Any:
        def handler(call: AttentionCall) -> torch.Tensor:
            order.append(name)
            return call.output_BTHE

        return handler

    inputs = vlm.collate(vlm.encode(sample_prompts()[:1]))
    with torch.inference_mode(), attention_control(vlm, {1: [says("a"), says("b")]}):
        with attention_control(vlm, {1: [says("c")], 2: [says("d")]}):
            vlm.model(**inputs)
        assert order == ["a", "b", "c", "d"]
        vlm.model(**inputs)
    assert order == ["a", "b", "c", "d", "a", "b"]


def test_it_is_undone_when_something_fails():
    vlm = tiny_vlm("llava")
    before = configs(vlm)

    def fails(call: AttentionCall) -> torch.Tensor:
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"), attention_control(vlm, {0: [fails]}):
        vlm.generate(sample_prompts()[:1], max_new_tokens=1)
    assert configs(vlm) == before
    for layer in (-1, 3):
        with pytest.raises(ModelError, match="from 0 to 2"), attention_control(vlm, {0: [], layer: []}):
            pass
    assert configs(vlm) == before
