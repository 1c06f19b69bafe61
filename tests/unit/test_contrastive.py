"""Contrastive decoding: the formula by hand, its views, and the decoders over all families."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from naive import naive_ids
from tiny import FAMILIES, random_image, sample_prompts, tiny_vlm

from sightline.decoding.base import plausible
from sightline.decoding.contrastive import (
    Contrast,
    ContrastiveDecoder,
    DiffusedImage,
    Disturbed,
    NoImage,
    NoReference,
    View,
)
from sightline.errors import ConfigError, ModelError
from sightline.models.prompts import Prompt
from sightline.models.strategy import Step
from sightline.models.vlm import Vlm

VIEWS: dict[str, View] = {
    "vcd": DiffusedImage(900),
    "no_image": NoImage(),
    "no_reference": NoReference(),
    "disturbed": Disturbed(),
}


@pytest.fixture
def vlm() -> Vlm:
    return tiny_vlm("smolvlm")


def step(own: list[list[float]], other: list[list[float]]) -> Step:
    empty = torch.empty(0, len(own), 1)
    return Step(torch.tensor([own, other]), empty, torch.nn.Identity(), torch.nn.Identity(), [[]] * len(own))


def prompts_for(view: View) -> list[Prompt]:
    prompts = sample_prompts()
    return [replace(p, context=p.context or "There is a cat.") for p in prompts]


# -- the formula ------------------------------------------------------------------------
def test_the_contrast_by_hand():
    # cutoff: max z + log 0.1 = 3 - 2.303 = 0.697, so the third token is out.
    scores = Contrast(alpha=1.0, beta=0.1).scores(step([[3.0, 2.0, 0.5]], [[4.0, 1.0, -9.0]]))
    assert scores.tolist() == [[2 * 3.0 - 4.0, 2 * 2.0 - 1.0, -math.inf]]
    assert scores.argmax().item() == 1  # greedy would have said 0


def test_the_cutoff_is_a_share_of_the_largest_probability():
    logits = torch.tensor([[0.0, math.log(0.5), math.log(0.09), -50.0]])
    probs = logits.softmax(-1)
    for share in (0.05, 0.1, 0.6, 1.0):
        assert torch.equal(plausible(logits, share), probs >= share * probs.max())
    assert plausible(logits, 0.0).all()
    assert plausible(torch.tensor([[1.0, 1.0]]), 1.0).all()  # equals stand together


def test_alpha_0_is_greedy_and_beta_1_too():
    own, other = [[1.0, 3.0, 2.9]], [[9.0, 9.0, -9.0]]
    assert Contrast(alpha=0.0).scores(step(own, other)).argmax().item() == 1
    assert Contrast(alpha=5.0, beta=1.0).scores(step(own, other)).argmax().item() == 1


def test_pais_guidance_is_the_same_formula():
    torch.manual_seed(0)
    own, other = torch.randn(2, 3, 11)
    log_p, log_q = own.log_softmax(-1), other.log_softmax(-1)
    gamma = 2.0
    theirs = (gamma * (log_p - log_q) + log_q).masked_fill(
        log_p < log_p.amax(-1, keepdim=True) + math.log(0.1), -torch.inf
    )
    ours = Contrast.guidance(gamma).scores(step(own.tolist(), other.tolist()))
    torch.testing.assert_close(ours.softmax(-1), theirs.softmax(-1))
    assert Contrast.guidance(1.0).alpha == 0.0


def test_rows_are_scored_apart():
    own, other = [[3.0, 2.0], [0.0, 5.0]], [[4.0, 1.0], [1.0, 2.0]]
    both = Contrast().scores(step(own, other))
    for r in range(2):
        assert torch.equal(both[r], Contrast().scores(step([own[r]], [other[r]]))[0])


# -- the views --------------------------------------------------------------------------
@pytest.mark.parametrize("family", FAMILIES)
def test_the_noise_is_vcds_on_the_processed_pixels(family: str):
    vlm = tiny_vlm(family)
    image = vlm.adapter.image_inputs(vlm.processor, random_image(3, 60, 44))
    noised = DiffusedImage(500).of(vlm, [Prompt(image, "Is there a dog?")], seed=0)[0].image
    pixels, noisy = image.tensors["pixel_values"], noised.tensors["pixel_values"]
    eps = (noisy - 0.8630 * pixels) / math.sqrt(1 - 0.8630**2)  # METHODS 1.8: sqrt(abar) at 500
    assert noisy.shape == pixels.shape
    assert noisy.dtype == pixels.dtype
    assert abs(float(eps.mean())) < 0.05
    assert float(eps.std()) == pytest.approx(1.0, abs=0.03)
    assert (noised.placeholder, noised.num_tokens) == (image.placeholder, image.num_tokens)
    assert {n for n in image.tensors if image.tensors[n] is not noised.tensors[n]} == {"pixel_values"}


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl"])
def test_a_pictures_frames_get_the_same_noise(family: str):
    vlm = tiny_vlm(family)
    image = vlm.adapter.image_inputs(vlm.processor, random_image(3, 60, 44))
    noised = DiffusedImage(500).of(vlm, [Prompt(image, "Is there a dog?")], seed=0)[0].image
    frames = noised.tensors["pixel_values"].unflatten(1, (3, 2, 14 * 14))
    assert torch.equal(frames[:, :, 0], frames[:, :, 1])


def test_noise_depends_on_seed_and_pixels_alone(vlm: Vlm):
    pixels = random_image(5)
    first, again, other = (
        vlm.adapter.image_inputs(vlm.processor, image) for image in (pixels, pixels.copy(), random_image(6))
    )

    def noisy(image, place: int, seed: int = 0) -> torch.Tensor:
        prompts = [Prompt(other, "What?")] * place + [Prompt(image, "Is there a dog?")]
        return DiffusedImage().of(vlm, prompts, seed)[-1].image.tensors["pixel_values"]

    assert torch.equal(noisy(first, 0), noisy(again, 2))
    assert not torch.equal(noisy(first, 0), noisy(first, 0, seed=1))
    assert not torch.equal(noisy(first, 0), noisy(other, 0))


def test_one_image_stays_one_object(vlm: Vlm):
    image = vlm.adapter.image_inputs(vlm.processor, random_image(5))
    noised = DiffusedImage().of(vlm, [Prompt(image, "What?"), Prompt(image, "Where?")], seed=0)
    assert noised[0].image is noised[1].image


def test_texts_of_the_views():
    prompt = Prompt(None, "Is there a dog?", "A dog is on the street.")
    assert Disturbed("Guess.").of(None, [prompt], 0)[0].text == (
        "Reference: A dog is on the street.\nGuess. Is there a dog?"
    )
    assert NoReference().of(None, [prompt], 0)[0].text == "Is there a dog?"


# -- the decoders -----------------------------------------------------------------------
@pytest.mark.parametrize("name", VIEWS)
@pytest.mark.parametrize("family", FAMILIES)
def test_equal_to_two_plain_passes(family: str, name: str):
    vlm, view = tiny_vlm(family), VIEWS[name]
    prompts = prompts_for(view)
    contrast = Contrast(alpha=1.0, beta=0.05)

    def score(logits: list[torch.Tensor], _) -> torch.Tensor:
        own, other = logits
        return torch.where(own < math.log(0.05) + own.max(), -torch.inf, 2 * own - other)

    expected = []
    for prompt in prompts[:2]:
        own = replace(prompt, image=vlm.adapter.image_inputs(vlm.processor, prompt.image))
        expected.append(naive_ids(vlm, [own, *view.of(vlm, [own], 0)], score, 3))
    decoder = ContrastiveDecoder(view, contrast)
    decoder.check(vlm)
    together = [a.token_ids for a in decoder.generate(vlm, prompts, max_new_tokens=3)]
    assert together[:2] == expected
    smaller = decoder.generate(vlm, prompts[::-1], max_new_tokens=3, batch_size=2)[::-1]
    assert [a.token_ids for a in smaller] == together


def test_the_contrast_matters_and_a_model_is_left_as_it_was(vlm: Vlm):
    prompts = prompts_for(NoImage())
    greedy = [a[0].token_ids for a in vlm.generate(prompts, max_new_tokens=6)]
    for view in VIEWS.values():
        got = ContrastiveDecoder(view).generate(vlm, prompts, max_new_tokens=6)
        assert [a.token_ids for a in got] != greedy
    assert [a[0].token_ids for a in vlm.generate(prompts, max_new_tokens=6)] == greedy


def test_step_0_and_alpha_0_are_greedy(vlm: Vlm):
    prompts = sample_prompts()
    greedy = [a[0].token_ids for a in vlm.generate(prompts, max_new_tokens=6)]
    for decoder in (
        ContrastiveDecoder(NoImage(), Contrast(alpha=0.0)),
        ContrastiveDecoder(NoImage(), Contrast.guidance(1.0)),
    ):
        assert [a.token_ids for a in decoder.generate(vlm, prompts, max_new_tokens=6)] == greedy


def test_more_prompts_than_a_window_come_back_in_order(vlm: Vlm):
    images = [random_image(i) for i in range(4)]
    prompts = [Prompt(images[i % 4], f"Is there a {'dog' * (i % 3)} cat?") for i in range(20)]
    decoder = ContrastiveDecoder(DiffusedImage(900))
    got = decoder.generate(vlm, prompts, max_new_tokens=3, batch_size=1)
    for i in (0, 7, 19):
        alone = decoder.generate(vlm, [prompts[i]], max_new_tokens=3)[0]
        assert got[i].token_ids == alone.token_ids
    assert decoder.generate(vlm, []) == []


def test_released_vcd_samples_and_a_seed_repeats_it(vlm: Vlm):
    prompts = sample_prompts()
    decoder = ContrastiveDecoder(DiffusedImage(), temperature=1.0)
    answers = {
        seed: [a.token_ids for a in decoder.generate(vlm, prompts, max_new_tokens=6, seed=seed)]
        for seed in (0, 1)
    }
    again = decoder.generate(vlm, prompts[::-1], max_new_tokens=6, seed=0, batch_size=2)[::-1]
    assert [a.token_ids for a in again] == answers[0]
    assert answers[0] != answers[1]


def test_the_global_random_state_is_left_alone(vlm: Vlm):
    torch.manual_seed(0)
    np.random.seed(0)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()
    ContrastiveDecoder(DiffusedImage()).generate(vlm, sample_prompts()[:1], max_new_tokens=2)
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == np.random.get_state()[1].tolist()


# -- refusals ---------------------------------------------------------------------------
@pytest.mark.parametrize("view", [DiffusedImage(), NoImage()])
def test_a_prompt_without_an_image_is_refused(vlm: Vlm, view: View):
    prompts = [sample_prompts()[0], Prompt(None, "Is there a dog?")]
    with pytest.raises(ModelError, match="prompt 1 without"):
        ContrastiveDecoder(view).generate(vlm, prompts)


def test_a_prompt_without_a_reference_is_refused(vlm: Vlm):
    with pytest.raises(ModelError, match="a context"):
        ContrastiveDecoder(NoReference()).generate(vlm, sample_prompts())


@pytest.mark.parametrize("wrong", [{"alpha": math.nan}, {"alpha": math.inf}, {"beta": -0.1}, {"beta": 1.1}])
def test_weights_that_mean_nothing_are_refused(wrong: dict):
    with pytest.raises(ModelError, match="a finite alpha and a beta from 0 to 1"):
        Contrast(**wrong)


@pytest.mark.parametrize("step", [-1, 1000])
def test_an_impossible_step_is_refused_at_once(step: int):
    with pytest.raises(ConfigError, match="0 to 999"):
        DiffusedImage(step)
