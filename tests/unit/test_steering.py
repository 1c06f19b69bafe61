"""Steering in closed form, and exact for every family, batch, padding and precision."""

from __future__ import annotations

from itertools import takewhile
from typing import Any

import pytest
import torch
from steered import directions, stock
from tiny import FAMILIES, fresh_vlm, sample_prompts, tiny_vlm

from sightline.activations.sites import Site
from sightline.interventions.directions import Directions
from sightline.interventions.stack import Stack
from sightline.interventions.steering import AddSteering, TextVti, VisualVti, turned
from sightline.models.prompts import Prompt
from sightline.models.vlm import Vlm


def strong(vlm: Vlm, scope: Any = "all") -> Stack:
    """Strong enough that tokens change."""
    given = directions(vlm)
    return Stack([AddSteering(given, 0.5, scope=scope), TextVti(given, 8.0), VisualVti(given, 8.0)])


def tokens(vlm: Vlm, **settings: Any) -> list[tuple[int, ...]]:
    settings = {"max_new_tokens": 8, "batch_size": 5} | settings
    return [samples[0].token_ids for samples in vlm.generate(sample_prompts(), **settings)]


def state(vlm: Vlm) -> dict[str, Any]:
    """Everything a model's answers depend on."""
    parts: dict[str, Any] = {f"weight {k}": v.clone() for k, v in vlm.model.state_dict().items()}
    for name, module in vlm.model.named_modules():
        for kind in ("_forward_hooks", "_forward_pre_hooks", "_forward_hooks_always_called"):
            parts[f"{kind} {name}"] = dict(getattr(module, kind))
        parts[f"forward {name}"] = module.__dict__.get("forward")
    return parts | {"config": vlm.model.config.to_json_string(use_diff=False)}


# -- closed forms -------------------------------------------------------------------------
def test_the_turn_in_closed_form():
    # |x| = 5, x / |x| = (0.6, 0.8); plus (0.15, -0.8) is (0.75, 0), which points along the first axis.
    x, step = torch.tensor([[3.0, 4.0], [0.0, 0.0]]), torch.tensor([0.15, -0.8])
    torch.testing.assert_close(turned(x, step), torch.tensor([[5.0, 0.0], [0.0, 0.0]]))
    assert torch.equal(turned(x, torch.zeros(2)), x)


def test_the_turn_equals_the_papers_formula_and_keeps_the_length():
    torch.manual_seed(0)
    normalize = torch.nn.functional.normalize
    x, direction = 7 * torch.randn(4, 3, 16), torch.randn(3, 16)
    step = 0.1 * 0.9 * normalize(direction, dim=-1)
    expected = normalize(normalize(x, dim=-1) + step, dim=-1) * x.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(turned(x, step), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(turned(x, step).norm(dim=-1), x.norm(dim=-1))


def test_bf16_is_the_float32_result_rounded_and_released_rounds_to_half():
    vlm = tiny_vlm("llava")
    x = torch.randn(2, 64).bfloat16()
    step = torch.randn(64)
    given = directions(vlm)
    exact = TextVti(given)._turning(step)(x)
    assert exact.dtype == torch.bfloat16
    assert torch.equal(exact, turned(x.float(), step).bfloat16())
    released = TextVti(given, mode="released")._turning(step)(x.float())
    assert released.dtype == torch.float32
    assert torch.equal(released, turned(x.float(), step).half().float())


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_added_arrives_at_the_block_and_only_there(family: str):
    vlm = tiny_vlm(family)
    given, sites = directions(vlm), [Site("prompt_token", 0), Site("prompt_token", 1)]
    before = vlm.capture(sample_prompts(), sites)
    with Stack([AddSteering(given, 2.0, layers=[1])]).attached(vlm):
        after = vlm.capture(sample_prompts(), sites)
    assert given.text_LD is not None
    assert (after[sites[0].name] == before[sites[0].name]).all()
    expected = torch.from_numpy(before[sites[1].name]) + 2.0 * given.text_LD[1]
    assert torch.equal(torch.from_numpy(after[sites[1].name]), expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_mlps_named_are_those_whose_output_joins_the_residual(family: str):
    vlm = tiny_vlm(family)
    blocks = [*vlm.adapter.text_blocks(vlm.model), *vlm.adapter.vision_blocks(vlm.model)]
    mlps = [*vlm.adapter.text_mlps(vlm.model), *vlm.adapter.vision_mlps(vlm.model)]
    seen: dict[str, Any] = {}
    handles = []
    for i, (block, mlp) in enumerate(zip(blocks, mlps, strict=True)):
        for what, module in (("block", block), ("mlp", mlp)):
            key = f"{what} {i}"
            handles.append(
                module.register_forward_hook(lambda m, a, out, key=key: seen.setdefault(key, out.clone()))
            )
    try:
        vlm.generate(sample_prompts()[:1], max_new_tokens=1)
        plain, seen_before = dict(seen), len(seen)
        # One MLP's output made zero: its block's output lacks exactly that.
        seen.clear()
        last = len(vlm.adapter.text_blocks(vlm.model)) - 1
        zero = mlps[last].register_forward_hook(lambda m, a, out: torch.zeros_like(out))
        handles.append(zero)
        vlm.generate(sample_prompts()[:1], max_new_tokens=1)
    finally:
        for handle in handles:
            handle.remove()
    assert seen_before == 2 * len(blocks)
    torch.testing.assert_close(
        seen[f"block {last}"] + plain[f"mlp {last}"], plain[f"block {last}"], atol=1e-5, rtol=1e-5
    )


def test_the_recorded_hidden_states_of_a_stock_call_are_the_steered_ones():
    vlm = tiny_vlm("llava")
    given, inputs = directions(vlm), vlm.collate(vlm.encode(sample_prompts()[:1]))
    with torch.inference_mode():
        plain = vlm.model(**inputs, output_hidden_states=True).hidden_states[1]
        with Stack([AddSteering(given, 2.0, layers=[0])]).attached(vlm):
            steered = vlm.model(**inputs, output_hidden_states=True).hidden_states[1]
    assert given.text_LD is not None
    assert torch.equal(steered, plain + 2.0 * given.text_LD[0])


# -- exactness ----------------------------------------------------------------------------
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_model_is_bit_equal_afterwards(family: str, attention: str):
    vlm = tiny_vlm(family, attention)
    plain = vlm.score(sample_prompts()[:2], ["Yes.", "Red."])
    before = state(vlm)  # after a first use: transformers then attaches recorders of its own, for good
    with strong(vlm).attached(vlm):
        steered = vlm.score(sample_prompts()[:2], ["Yes.", "Red."])
    assert [a.logprob for a in steered] != [a.logprob for a in plain]
    after = state(vlm)
    assert before.keys() == after.keys()
    for name, value in before.items():
        same = torch.equal(value, after[name]) if isinstance(value, torch.Tensor) else value == after[name]
        assert same, name
    assert vlm.score(sample_prompts()[:2], ["Yes.", "Red."]) == plain


@pytest.mark.parametrize("family", FAMILIES)
def test_tokens_do_not_depend_on_neighbours_padding_or_batch_size(family: str):
    vlm = tiny_vlm(family)
    plain = tokens(vlm)
    with strong(vlm).attached(vlm):
        together = tokens(vlm)
        assert tokens(vlm, batch_size=1) == together
        assert tokens(vlm, batch_size=2, reuse_prefix=False) == together
    assert together != plain


@pytest.mark.parametrize("family", ["smolvlm", "llava", "qwen2_vl", "instructblip"])
def test_stock_generate_is_steered_alike_with_left_padding_and_beams(family: str):
    vlm = tiny_vlm(family)
    prompts = sample_prompts()
    ends = vlm.stop_ids

    def answers(prompts: list[Prompt], **settings: Any) -> list[tuple[int, ...]]:
        """Each answer's ids up to its end."""
        output = stock(vlm, prompts, max_new_tokens=6, **settings)
        # InstructBLIP gives the new ids alone, all others the prompts' too.
        longest = max(map(len, vlm.encode(prompts)))
        new = output if output.shape[1] <= 6 else output[:, longest:]
        return [tuple(takewhile(lambda token: token not in ends, row)) for row in new.tolist()]

    with strong(vlm, "decode").attached(vlm):
        ours = [ids[:-1] if ids[-1] in ends else ids for ids in tokens(vlm, max_new_tokens=6)]
        assert answers(prompts) == ours
        together, alone = answers(prompts[:2], num_beams=3), answers(prompts[:1], num_beams=3)
    assert together[0] == alone[0] != ()


def test_decoded_tokens_alone_are_steered_and_scored_alike():
    vlm = tiny_vlm("llava")
    prompts = sample_prompts()
    with Stack([AddSteering(directions(vlm), 0.5, scope="decode")]).attached(vlm):
        answers = [samples[0] for samples in vlm.generate(prompts, max_new_tokens=8)]
    plain = vlm.generate(prompts, max_new_tokens=8)
    # The prompt is untouched, hence the first token is the plain one; later ones are not.
    assert [a.token_ids[0] for a in answers] == [p[0].token_ids[0] for p in plain]
    assert [a.token_ids for a in answers] != [p[0].token_ids for p in plain]
    given = ["Yes.", "Red.", "A cat.", "No.", "Two."]
    with Stack([AddSteering(directions(vlm), 0.5, scope="decode")]).attached(vlm):
        together = vlm.score(prompts, given)
        alone = [vlm.score([p], [a], reuse_prefix=False)[0] for p, a in zip(prompts, given, strict=True)]
        stepped = _stepped(vlm, prompts[0], together[0].token_ids)
    for one, other in zip(together, alone, strict=True):
        assert one.logprob == pytest.approx(other.logprob, abs=2e-5)
    assert stepped == pytest.approx(together[0].logprob, abs=2e-5)


def _stepped(vlm: Vlm, prompt: Any, ids: tuple[int, ...]) -> float:
    """Log-probability of an answer fed token by token to the stock model."""
    inputs = vlm.collate(vlm.encode([prompt]))
    total = 0.0
    with torch.inference_mode():
        output = vlm.model(**inputs, use_cache=True)
        for token in ids:
            total += float(output.logits[0, -1].double().log_softmax(-1)[token])
            output = vlm.model(
                input_ids=torch.tensor([[token]]), past_key_values=output.past_key_values, use_cache=True
            )
    return total


def test_a_bf16_model_stays_bf16_and_is_restored():
    vlm = fresh_vlm("smolvlm")
    given = directions(vlm)
    vlm.model.to(torch.bfloat16)
    vlm._identity = given.identity  # the same checkpoint, loaded in half the precision
    stack = Stack([AddSteering(given, 0.5), TextVti(given, 8.0), VisualVti(given, 8.0)])
    plain = vlm.score(sample_prompts(), ["Yes."] * 5)
    with stack.attached(vlm):
        assert vlm.score(sample_prompts(), ["Yes."] * 5) != plain
    assert vlm.score(sample_prompts(), ["Yes."] * 5) == plain


def test_every_tile_gets_the_same_directions_and_one_for_all_is_their_mean_alike():
    vlm = tiny_vlm("smolvlm")
    draw = torch.Generator().manual_seed(3)
    one_L1D = torch.randn(2, 1, 32, generator=draw)
    fixed = vlm.adapter.vision_tokens(vlm.model)
    each = Directions.of(vlm, visual_LPD=one_L1D.expand(-1, fixed, -1).contiguous())
    results = []
    for given in (each, Directions.of(vlm, visual_LPD=one_L1D)):
        with Stack([VisualVti(given, 5.0)]).attached(vlm):
            results.append(vlm.score(sample_prompts(), ["Yes."] * 5))
    assert results[0] == results[1]
