"""Rows decoded as several streams, and strategies that compare them: `models.strategy`, `models.decode`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest
import torch
from naive import look, naive_ids
from test_decode import ids, mining_prompts, stop_early
from tiny import FAMILIES, fresh_vlm, random_image, sample_prompts, tiny_vlm

from sightline.errors import ModelError
from sightline.interventions.pai import Pai
from sightline.interventions.spin import Spin
from sightline.interventions.stack import Stack
from sightline.models.prompts import Prompt
from sightline.models.strategy import EarlyOutputs, Step
from sightline.models.vlm import Vlm


@pytest.fixture
def vlm() -> Vlm:
    return tiny_vlm("smolvlm")


@dataclass
class Mixed:
    """Scores that need every stream: the first plus half of each other."""

    layers: tuple[int, ...] = ()

    def scores(self, step: Step) -> torch.Tensor:
        return step.logits_KRV[0] + 0.5 * step.logits_KRV[1:].sum(0)


@dataclass
class Own:
    """The model's own logits, after a look at what the step shows."""

    layers: tuple[int, ...] = ()
    steps: list[Step] | None = None

    def scores(self, step: Step) -> torch.Tensor:
        if self.steps is not None:
            self.steps.append(replace(step, generated=[list(ids) for ids in step.generated]))
        return step.logits_KRV[0]


def mixed_views(prompts: Sequence[Prompt]) -> list[list[Prompt]]:
    """Three further streams: another image, no image, the same image with another text."""
    other = random_image(9, 60, 30)
    return [
        [replace(p, image=other) for p in prompts],
        [replace(p, image=None) for p in prompts],
        [replace(p, context="", question=f"How many? {p.question}") for p in prompts],
    ]


# -- against the plain loop -------------------------------------------------------------
@pytest.mark.parametrize("family", FAMILIES)
def test_streams_equal_separate_passes_without_a_cache(family: str):
    vlm, prompts = tiny_vlm(family), sample_prompts()
    streams = mixed_views(prompts)
    views = list(zip(prompts, *streams, strict=True))
    expected = [
        naive_ids(vlm, view, lambda logits, _: logits[0] + 0.5 * sum(logits[1:]), 3) for view in views[:3]
    ]
    got = vlm.generate(prompts, max_new_tokens=3, strategy=Mixed(), streams=streams, batch_size=12)
    assert [samples[0].token_ids for samples in got[:3]] == expected
    assert ids(got) != ids(vlm.generate(prompts, max_new_tokens=3))


@pytest.mark.parametrize("family", FAMILIES)
def test_streams_that_nobody_reads_change_nothing(family: str):
    vlm, prompts = tiny_vlm(family), sample_prompts()
    plain = vlm.generate(prompts, max_new_tokens=6)
    streamed = vlm.generate(prompts, max_new_tokens=6, strategy=Own(), streams=mixed_views(prompts))
    assert ids(streamed) == ids(plain)
    for a, b in zip(streamed, plain, strict=True):
        assert a[0].logprob == pytest.approx(b[0].logprob, abs=5e-5)


# -- neighbours, batches, ends ----------------------------------------------------------
@pytest.mark.parametrize("family", FAMILIES)
def test_neighbours_and_batches_change_nothing(family: str):
    vlm, prompts = tiny_vlm(family), sample_prompts()

    def answers(chosen: list[Prompt], **options) -> list:
        streams = mixed_views(chosen)
        return ids(vlm.generate(chosen, max_new_tokens=6, strategy=Mixed(), streams=streams, **options))

    alone = [answers([prompt])[0] for prompt in prompts]
    assert answers(prompts) == alone
    assert answers(prompts, batch_size=1) == alone  # one row's streams even so
    assert answers(prompts, batch_size=9, reuse_prefix=False) == alone
    assert answers(prompts[::-1], batch_size=8)[::-1] == alone


@pytest.mark.parametrize("batch_size", [2, 7, 100])
def test_rows_end_with_all_their_streams(batch_size: int):
    prompts = mining_prompts(2)
    stop_early(vlm := fresh_vlm("smolvlm"), prompts)
    streams = [[replace(p, image=None) for p in prompts]]
    options = {"max_new_tokens": 14, "strategy": Mixed()}
    expected = [
        vlm.generate([p], streams=[[q]], **options)[0] for p, q in zip(prompts, streams[0], strict=True)
    ]
    assert len({len(samples[0].token_ids) for samples in expected}) > 2  # rows do leave and join
    got = vlm.generate(prompts, streams=streams, batch_size=batch_size, **options)
    assert ids(got) == ids(expected)
    for samples in got:
        answer = samples[0]
        assert not set(answer.token_ids[:-1]) & vlm.stop_ids
        assert answer.finished == (answer.token_ids[-1] in vlm.stop_ids)


def test_an_image_that_two_streams_show_is_encoded_once(vlm: Vlm, monkeypatch: pytest.MonkeyPatch):
    encoded, original = [], type(vlm.adapter).encode_images

    def spy(adapter, model, rows):
        encoded.extend(id(row.image) for row in rows)
        return original(adapter, model, rows)

    monkeypatch.setattr(type(vlm.adapter), "encode_images", spy)
    prompts = sample_prompts()
    streams = [[replace(p, context="") for p in prompts], [replace(p, image=None) for p in prompts]]
    vlm.generate(prompts, max_new_tokens=2, strategy=Mixed(), streams=streams, batch_size=3)
    assert len(encoded) == len(set(encoded)) == 2


# -- what a step shows ------------------------------------------------------------------
def test_logprob_stays_the_models_own(vlm: Vlm):
    prompt = sample_prompts()[0]
    streams = [[replace(prompt, image=None)]]
    answer = vlm.generate([prompt], max_new_tokens=4, strategy=Mixed(), streams=streams)[0][0]
    row = vlm.encode([prompt])[0]
    total = 0.0
    for i, token in enumerate(answer.token_ids):
        with torch.inference_mode():
            logits_V, _ = look(vlm, replace(row, ids=row.ids + list(answer.token_ids[:i])))
        total += float(logits_V.double().log_softmax(-1)[token])
    assert answer.logprob == pytest.approx(total, abs=2e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_early_outputs_are_those_of_the_deciding_tokens(family: str):
    vlm, prompts = tiny_vlm(family), sample_prompts()
    strategy = Own(layers=(-1, 1, 0), steps=[])
    streams = [[replace(p, image=None) for p in prompts]]
    answers = vlm.generate(prompts, max_new_tokens=2, strategy=strategy, streams=streams)
    steps = strategy.steps or []
    found_NV = torch.cat([step.logits_KRV[0] for step in steps])
    early_NLD = torch.cat([step.early_LRD.transpose(0, 1) for step in steps])
    for row, samples in zip(vlm.encode(prompts), answers, strict=True):
        for told in ([], list(samples[0].token_ids[:1])):
            with torch.inference_mode():
                logits_V, hidden = look(vlm, replace(row, ids=row.ids + told))
            # Rows are decoded in an order of the engine's own: the logits say which it is.
            here = int((found_NV - logits_V).abs().amax(-1).argmin())
            expected_LD = torch.stack([hidden[layer + 1] for layer in strategy.layers])
            torch.testing.assert_close(early_NLD[here], expected_LD, atol=2e-4, rtol=2e-4)


def test_a_state_before_the_norm_projects_to_the_logits(vlm: Vlm):
    strategy = Own(layers=(2,), steps=[])
    vlm.generate(sample_prompts(), max_new_tokens=2, strategy=strategy)
    for step in strategy.steps or []:
        with torch.inference_mode():
            torch.testing.assert_close(step.project(step.early_LRD[0]), step.logits_KRV[0])


def test_hooks_are_gone_afterwards_also_after_an_error(vlm: Vlm):
    class Broken(Own):
        def scores(self, step: Step) -> torch.Tensor:
            raise RuntimeError("broken")

    def hooks() -> list[int]:
        blocks = vlm.adapter.text_blocks(vlm.model)
        return [len(block._forward_hooks) + len(block._forward_pre_hooks) for block in blocks]

    before = hooks()
    with pytest.raises(RuntimeError, match="broken"):
        vlm.generate(sample_prompts()[:1], strategy=Broken(layers=(-1, 0)))
    assert hooks() == before


# -- under interventions ----------------------------------------------------------------
@pytest.mark.parametrize("family", FAMILIES)
def test_an_intervention_acts_on_the_streams_that_show_an_image(family: str):
    """SPIN and PAI leave a stream without an image alone, next to others that they change."""
    vlm, prompts = tiny_vlm(family), sample_prompts()
    streams = [[replace(p, image=None) for p in prompts], [replace(p, context="") for p in prompts]]

    def first_steps(stack: Stack, count: int) -> torch.Tensor:
        strategy = Own(steps=[])
        with stack.attached(vlm):
            options = {"max_new_tokens": 1, "strategy": strategy, "batch_size": 100}
            vlm.generate(prompts[:count], streams=[s[:count] for s in streams], **options)
        return torch.cat([step.logits_KRV for step in strategy.steps or []], dim=1)

    plain, changed = first_steps(Stack([]), 1), first_steps(Stack([Spin(0.5, 0.0), Pai(2.0)]), 1)
    torch.testing.assert_close(changed[1], plain[1])
    for k in (0, 2):
        assert (changed[k] - plain[k]).abs().max() > 0.01
    torch.testing.assert_close(first_steps(Stack([]), 1), plain, atol=0, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_contrasts_under_a_stack_do_not_depend_on_neighbours(family: str):
    vlm, prompts = tiny_vlm(family), sample_prompts()

    def answers(chosen: list[Prompt], **options) -> list:
        with Stack([Spin(0.5, 0.1), Pai(0.5)]).attached(vlm):
            streams = mixed_views(chosen)
            return ids(vlm.generate(chosen, max_new_tokens=5, strategy=Mixed(), streams=streams, **options))

    alone = [answers([prompt])[0] for prompt in prompts]
    assert answers(prompts, batch_size=12) == alone
    assert answers(prompts[::-1], batch_size=8, reuse_prefix=False)[::-1] == alone


# -- sampling ---------------------------------------------------------------------------
def test_samples_follow_the_scores_seed_and_prompt(vlm: Vlm):
    prompts = sample_prompts()
    streams = [[replace(p, image=None) for p in prompts]]
    options = {"max_new_tokens": 6, "temperature": 1.0, "num_samples": 2, "strategy": Mixed()}
    base = ids(vlm.generate(prompts, seed=1, streams=streams, **options))
    assert ids(vlm.generate(prompts, seed=1, streams=streams, batch_size=4, **options)) == base
    reverse = vlm.generate(prompts[::-1], seed=1, streams=[streams[0][::-1]], **options)
    assert ids(reverse)[::-1] == base
    assert ids(vlm.generate(prompts, seed=2, streams=streams, **options)) != base


def test_a_forbidden_token_is_never_drawn(vlm: Vlm):
    @dataclass
    class Few(Own):
        def scores(self, step: Step) -> torch.Tensor:
            scores_RV = torch.full_like(step.logits_KRV[0], -torch.inf)
            scores_RV[:, [5, 7]] = 0.0
            return scores_RV

    samples = vlm.generate(
        sample_prompts()[:1], max_new_tokens=4, temperature=1.0, num_samples=20, strategy=Few()
    )
    assert {token for answer in samples[0] for token in answer.token_ids} == {5, 7}


# -- refusals ---------------------------------------------------------------------------
def test_streams_without_a_strategy_are_refused(vlm: Vlm):
    prompts = sample_prompts()
    with pytest.raises(ModelError, match="a strategy that compares"):
        vlm.generate(prompts, streams=[prompts])


def test_a_stream_has_one_prompt_a_row(vlm: Vlm):
    prompts = sample_prompts()
    with pytest.raises(ModelError, match="5 prompts a stream"):
        vlm.generate(prompts, strategy=Mixed(), streams=[prompts, prompts[:-1]])


@pytest.mark.parametrize("layer", [-2, 3])
def test_layers_that_are_not_there_are_refused(vlm: Vlm, layer: int):
    with pytest.raises(ModelError, match=r"layers from -1 .* to 2, got"):
        vlm.generate(sample_prompts()[:1], strategy=Own(layers=(layer,)))


def test_a_hook_that_was_not_called_is_an_error(vlm: Vlm):
    early = EarlyOutputs(vlm.adapter, vlm.model, (0,))
    with early.attached(), pytest.raises(ModelError, match="hook of block 0"):
        early.take(torch.zeros(1, 4))
