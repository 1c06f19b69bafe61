"""Captured activations: equal to a plain forward with every hidden state, whatever the batch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tiny import FAMILIES, fresh_vlm, random_image, sample_prompts, tiny_vlm

from sightline.activations.sites import EMBEDDING, Kind, Site, default_sites, sites_at
from sightline.errors import ModelError
from sightline.models.capture import image_windows
from sightline.models.encoding import EncodedRow
from sightline.models.prompts import Prompt
from sightline.models.vlm import Vlm

ANSWERS = ["Yes.", "Red.", "A cat and a couch are in the kitchen.", "No, there is no cat.", ""]
LAYERS = (EMBEDDING, 0, 1, 2)
SITES = sites_at(("vision_only", "vision_token", "query_token", "prompt_token", "answer_mean"), LAYERS)
FP32 = 1e-5
"""Largest difference allowed, as a part of the row's largest value."""
BF16 = 1e-2
"""Relative error allowed, over all rows of a site."""


@pytest.fixture(params=FAMILIES)
def vlm(request: pytest.FixtureRequest) -> Vlm:
    return tiny_vlm(request.param)


def span(row: EncodedRow, kind: Kind) -> slice:
    """The tokens a kind reads, written down a second time."""
    found = {
        "vision_token": slice(row.spans.image_indices()[-1], row.spans.image_indices()[-1] + 1),
        "query_token": slice(row.spans.question.stop - 1, row.spans.question.stop),
        "prompt_token": slice(len(row.prompt_ids) - 1, len(row.prompt_ids)),
        "answer_mean": row.spans.answer,
    }
    return found[kind]


def plain(vlm: Vlm, prompt: Prompt, answer: str | None) -> dict[str, np.ndarray]:
    """One unpadded forward of the model class, every hidden state kept, values picked afterwards."""
    row = vlm.encode([prompt], None if answer is None else [answer])[0]
    batch = {n: t.to(vlm.device) for n, t in vlm.collate([row]).items()}
    if vlm.model.config.model_type == "instructblip":
        batch["pixel_values"] = batch["pixel_values"].to(vlm.model.dtype)
    before_norm: list[torch.Tensor] = []
    norm = vlm.adapter.final_norm(vlm.model)
    handle = norm.register_forward_pre_hook(lambda module, args: before_norm.append(args[0]))
    with torch.inference_mode():
        outputs = vlm.model(**batch, output_hidden_states=True)
        handle.remove()
        text = getattr(outputs, "language_model_outputs", outputs)
        # The last of transformers' hidden states is after the final norm: layer n-1 is not.
        assert torch.equal(norm(before_norm[0]), text.hidden_states[-1])
    states = {layer: hidden[0] for layer, hidden in enumerate(text.hidden_states, start=EMBEDDING)}
    states[vlm.num_layers - 1] = before_norm[0][0]
    values = {"vision_only": tower_mean(vlm, batch)}
    for site in SITES:
        if site.layer is not None:
            values[site.name] = states[site.layer][span(row, site.kind)].float().mean(0)
    return {name: value.cpu().numpy() for name, value in values.items()}


def tower_mean(vlm: Vlm, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Mean patch of what the vision tower itself returns, from the processor's tensors."""
    model, kind = vlm.model, vlm.model.config.model_type
    pixels = batch["pixel_values"].to(model.dtype)
    with torch.inference_mode():
        if kind in ("smolvlm", "idefics3"):
            patches = model.model.vision_model(pixels[0]).last_hidden_state
        elif kind in ("llava", "llava_next"):
            patches = model.model.vision_tower(pixels.flatten(0, -4)).last_hidden_state[:, 1:]
        elif kind == "instructblip":
            patches = model.vision_model(pixels).last_hidden_state[:, 1:]
        else:
            patches = model.model.visual(pixels, grid_thw=batch["image_grid_thw"]).last_hidden_state
    return patches.float().flatten(0, -2).mean(0)


def difference(got: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference as a part of the largest value."""
    return float(np.abs(got - expected).max() / np.abs(expected).max())


def assert_close(got: dict[str, np.ndarray], expected: dict[str, np.ndarray], tolerance: float) -> None:
    assert got.keys() == expected.keys()
    for name, values_ND in got.items():
        for i, row_D in enumerate(values_ND):
            assert difference(row_D, expected[name][i]) < tolerance, (name, i)


def stacked(rows: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


# -- equal to a plain forward -----------------------------------------------------------
def test_values_equal_a_plain_forward(vlm: Vlm):
    prompts = sample_prompts()
    expected = stacked([plain(vlm, p, a) for p, a in zip(prompts, ANSWERS, strict=True)])
    for options in ({}, {"reuse_prefix": False}, {"batch_size": 2}):
        got = vlm.capture(prompts, SITES, ANSWERS, **options)
        assert all(values.dtype == np.float32 for values in got.values())
        assert_close(got, expected, FP32)


def relative_error(got: dict[str, np.ndarray], expected: dict[str, np.ndarray], name: str) -> float:
    """Norm of the difference as a part of the norm, all rows of a site together."""
    return float(np.linalg.norm(got[name] - expected[name]) / np.linalg.norm(expected[name]))


def test_bfloat16_equals_a_plain_bfloat16_forward_on_the_reference_vlm():
    vlm, prompts = Vlm.load("world", dtype="bfloat16"), sample_prompts()
    got = vlm.capture(prompts, SITES, ANSWERS)
    expected = stacked([plain(vlm, p, a) for p, a in zip(prompts, ANSWERS, strict=True)])
    assert max(relative_error(got, expected, name) for name in got) < BF16


@pytest.mark.parametrize("family", FAMILIES)
def test_bfloat16_is_as_near_to_fp32_as_a_plain_bfloat16_forward(family: str):
    """The tiny models' spread weights make bf16 itself err by 2 %, so two bf16 ways differ by as much."""
    vlm, prompts = fresh_vlm(family), sample_prompts()
    vlm.model.to(torch.bfloat16)
    got = vlm.capture(prompts, SITES, ANSWERS)
    expected = stacked([plain(vlm, p, a) for p, a in zip(prompts, ANSWERS, strict=True)])
    exact = tiny_vlm(family).capture(prompts, SITES, ANSWERS)
    for name in got:
        assert relative_error(got, exact, name) < 1.15 * relative_error(expected, exact, name), name
        assert relative_error(got, exact, name) < 0.03, name


def test_eager_attention_gives_the_same_values():
    prompts = sample_prompts()
    for family in ("smolvlm", "qwen2_vl"):
        expected = tiny_vlm(family).capture(prompts, SITES, ANSWERS)
        assert_close(tiny_vlm(family, "eager").capture(prompts, SITES, ANSWERS), expected, FP32)


def test_widths_and_layers_are_what_the_model_has(vlm: Vlm):
    assert vlm.num_layers == 3
    got = vlm.capture(sample_prompts()[:1], SITES, ANSWERS[:1])
    assert {s.name: vlm.site_width(s) for s in SITES} == {n: v.shape[1] for n, v in got.items()}
    assert vlm.site_width(Site("vision_only")) == 32
    assert vlm.site_width(Site("query_token", 0)) == 64


# -- whatever the batch -----------------------------------------------------------------
def test_a_batch_equals_batches_of_one(vlm: Vlm):
    prompts = sample_prompts()
    together = vlm.capture(prompts, SITES, ANSWERS, batch_size=5)
    alone = [vlm.capture([p], SITES, [a], batch_size=1) for p, a in zip(prompts, ANSWERS, strict=True)]
    assert_close(together, {n: np.concatenate([one[n] for one in alone]) for n in together}, FP32)


def test_order_and_neighbours_change_nothing(vlm: Vlm):
    prompts = [Prompt(random_image(7), "How many people?"), *sample_prompts()]
    expected = vlm.capture(prompts, default_sites(3))
    backwards = vlm.capture(prompts[::-1], default_sites(3))
    assert_close({n: v[::-1] for n, v in backwards.items()}, expected, FP32)


def test_a_site_alone_equals_the_site_among_others(vlm: Vlm):
    """Alone it may stop after an earlier block and an earlier token."""
    prompts = sample_prompts()
    everything = vlm.capture(prompts, SITES, ANSWERS)
    for site in SITES:
        alone = vlm.capture(prompts, [site], ANSWERS)
        assert_close(alone, {site.name: everything[site.name]}, FP32)


def test_many_windows_equal_one(monkeypatch: pytest.MonkeyPatch):
    vlm = tiny_vlm("smolvlm")
    images = [random_image(i) for i in range(4)]
    prompts = [Prompt(image, f"How many people? {q}") for q in range(3) for image in images]
    expected = vlm.capture(prompts, default_sites(3))
    monkeypatch.setattr("sightline.models.vlm._WINDOW", 1)
    assert_close(vlm.capture(prompts, default_sites(3), batch_size=2), expected, FP32)


def test_a_prompt_without_an_image():
    vlm = tiny_vlm("smolvlm")
    prompts = [sample_prompts()[0], Prompt(None, "Is there a dog?")]
    sites = sites_at(("query_token", "prompt_token"), LAYERS)
    got = vlm.capture(prompts, sites)
    alone = vlm.capture(prompts[1:], sites)
    assert_close({n: v[1:] for n, v in got.items()}, alone, FP32)


def test_nothing_in_nothing_out():
    got = tiny_vlm("smolvlm").capture([], default_sites(3))
    assert {name: values.shape for name, values in got.items()}["vision_only"] == (0, 32)


# -- no work in vain --------------------------------------------------------------------
def test_an_image_goes_through_the_tower_once(vlm: Vlm, monkeypatch: pytest.MonkeyPatch):
    images = [random_image(i) for i in range(3)]
    prompts = [Prompt(image, q) for q in ("Is there a dog?", "How many?", "Two or one?") for image in images]
    expected = vlm.capture(prompts, default_sites(3), reuse_prefix=False)
    rows = vlm.encode(prompts)
    tower = vlm.adapter.vision_blocks(vlm.model)[0]
    calls: list[int] = []
    handle = tower.register_forward_pre_hook(lambda module, args: calls.append(args[0].numel()))
    vlm.adapter.see_images(vlm.model, rows[:3])
    once = sum(calls)
    calls.clear()
    monkeypatch.setattr("sightline.models.vlm._WINDOW", 1)
    got = vlm.capture(prompts, default_sites(3), batch_size=4)
    handle.remove()
    assert sum(calls) == once
    assert_close(got, expected, FP32)


def test_blocks_and_tokens_that_are_not_read_are_not_computed():
    vlm, prompts = tiny_vlm("smolvlm"), sample_prompts()
    tokens: list[list[int]] = [[], [], []]
    handles = [
        block.register_forward_pre_hook(lambda module, args, i=i: tokens[i].append(args[0].shape[1]))
        for i, block in enumerate(vlm.adapter.text_blocks(vlm.model))
    ]
    vlm.capture(prompts[:1], [Site("prompt_token", 2)])
    whole = tokens[0][-1]
    assert [len(t) for t in tokens] == [1, 1, 1]
    vlm.capture(prompts[:1], [Site("vision_token", 0)])
    assert [len(t) for t in tokens] == [2, 1, 1]
    row = vlm.encode(prompts[:1])[0]
    assert tokens[0][-1] == row.spans.image[-1].stop < whole == len(row)
    vlm.capture(prompts, [Site("vision_only"), Site("query_token", EMBEDDING)])
    assert [len(t) for t in tokens] == [3, 1, 1]  # its hook is the last to see the input
    for handle in handles:
        handle.remove()


def test_neither_the_head_nor_the_hidden_states_are_made(vlm: Vlm, monkeypatch: pytest.MonkeyPatch):
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("the head was called")

    monkeypatch.setattr(vlm.adapter.lm_head(vlm.model), "forward", refuse)
    vlm.capture(sample_prompts(), SITES, ANSWERS)


def test_the_model_is_left_as_it_was():
    vlm = fresh_vlm("smolvlm")
    vlm.model.train()
    before = {n: p.clone() for n, p in vlm.model.named_parameters()}
    vlm.capture(sample_prompts(), SITES, ANSWERS)
    with pytest.raises(ModelError):
        vlm.capture(sample_prompts(), [Site("query_token", 3)])
    assert vlm.model.training
    assert all(torch.equal(p, before[n]) for n, p in vlm.model.named_parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in vlm.adapter.text_blocks(vlm.model))


def test_windows_never_cut_an_image():
    images = [random_image(i) for i in range(3)]
    prompts = [Prompt(images[i % 3], f"{i}?") for i in range(9)]
    windows = list(image_windows(prompts, 4))
    assert windows == [[0, 3, 6], [1, 4, 7], [2, 5, 8]]
    assert list(image_windows(prompts, 100)) == [[0, 3, 6, 1, 4, 7, 2, 5, 8]]


# -- refused ----------------------------------------------------------------------------
def test_a_layer_the_model_does_not_have_is_refused(vlm: Vlm):
    with pytest.raises(ModelError, match=r"3 decoder blocks, got query_token\.layer_3"):
        vlm.capture(sample_prompts(), [Site("query_token", 2), Site("query_token", 3)])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"sites": []}, "at least one site"),
        ({"sites": [Site("answer_mean", 0)]}, "answers, one a prompt"),
        ({"sites": SITES, "answers": ["Yes."]}, "1 answers|5 answers"),
        ({"sites": SITES, "answers": ANSWERS, "batch_size": 0}, "batch_size"),
    ],
)
def test_impossible_demands_are_refused(arguments: dict[str, Any], words: str):
    with pytest.raises(ModelError, match=words):
        tiny_vlm("smolvlm").capture(sample_prompts(), **arguments)


def test_a_vision_site_without_an_image_is_refused_before_any_work():
    vlm = tiny_vlm("smolvlm")
    prompts = [sample_prompts()[0], Prompt(None, "Is there a dog?")]
    for site in (Site("vision_only"), Site("vision_token", 1)):
        with pytest.raises(ModelError, match="prompt 1 without one"):
            vlm.capture(prompts, [site])


def test_a_hook_that_is_never_called_is_an_error():
    vlm = fresh_vlm("smolvlm")
    blocks = vlm.adapter.text_blocks(vlm.model)
    # As a compiled or fused decoder would: the block's forward is called, not the block.
    original = type(blocks[1]).__call__

    class Fused(type(blocks[1])):  # type: ignore[misc]
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return self.forward(*args, **kwargs)

    assert original is not Fused.__call__
    blocks[1].__class__ = Fused
    with pytest.raises(ModelError, match="goes past hooks"):
        vlm.capture(sample_prompts(), [Site("query_token", 1)])
