"""Contrastive decoding: what the model says, against what it says with less to go on.

One formula, (1 + alpha) z - alpha z', over the tokens that z alone finds plausible; z are
the logits after the prompt, z' after a `View` of it with the evidence spoiled or gone, and
both are fed the same answer. What is spoiled makes the method:

`DiffusedImage`  VCD (Leng et al., CVPR 2024, Eq. 3): the same image under diffusion noise.
`NoImage`        PAI's guidance (Liu et al., ECCV 2024), the image left out. It is written
                 gamma (log p - log p') + log p' there: this formula with alpha = gamma - 1,
                 for what log p and z differ in is a constant of the row.
`NoReference`    with and without the retrieved context (CAD, Shi et al., NAACL 2024).
`Disturbed`      ICD (Wang et al., Findings of ACL 2024): an instruction that confuses.
                 The paper writes z - lambda z' and the released code, like VCD's, the
                 formula here.

IBD (Zhu et al., 2024) is the same idea turned round: its second model sees *more* of the
image (attention to it is boosted, as PAI does), and the plain model is what is taken away.
`pai` with `gamma` comes nearest here; IBD's own weights per word are not built.

`paper` and `released` differ in VCD's choice alone: the released code can only sample at
temperature 1 (`temperature=1.0`); here the largest score is taken, so that the comparison
with greedy decoding is fair.

InstructBLIP's image features are read with the question. `NoReference` and `Disturbed`
change what its Q-Former reads too: the second stream's image is then another one, which is
what ICD describes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Protocol

import torch

from sightline.data.corruptions import diffusion_rates
from sightline.decoding.base import check_sizes, plausible
from sightline.errors import ModelError
from sightline.models.capture import image_windows
from sightline.models.encoding import ImageInputs, content_seed
from sightline.models.prompts import Prompt
from sightline.models.strategy import Step
from sightline.records import Answer

if TYPE_CHECKING:
    from sightline.models.vlm import Vlm

_WINDOW = 8
"""Batches of prompts whose pixels, plain and spoiled, are in memory together."""


@dataclass(frozen=True, slots=True)
class Contrast:
    """The strategy: scores (1 + alpha) z - alpha z', -inf where z finds a token implausible.

    `alpha` 0 is greedy decoding; `beta` is the smallest share of the likeliest token's
    probability that is plausible (VCD Eq. 4). Both VCD's values for captions and POPE.
    """

    alpha: float = 1.0
    beta: float = 0.1
    layers: ClassVar[tuple[int, ...]] = ()

    def __post_init__(self) -> None:
        if not (math.isfinite(self.alpha) and 0.0 <= self.beta <= 1.0):
            raise ModelError(
                expected="a finite alpha and a beta from 0 to 1", got=f"{self.alpha} and {self.beta}"
            )

    @classmethod
    def guidance(cls, gamma: float, beta: float = 0.1) -> Contrast:
        """PAI's form: gamma (log p - log p') + log p'. `gamma` 1 changes nothing but the cutoff."""
        return cls(gamma - 1.0, beta)

    def scores(self, step: Step) -> torch.Tensor:
        """(R, V) from the two streams' logits."""
        own_RV, other_RV = step.logits_KRV
        contrast_RV = (1.0 + self.alpha) * own_RV - self.alpha * other_RV
        return contrast_RV.masked_fill_(~plausible(own_RV, self.beta), -torch.inf)


class View(Protocol):
    """The prompts of the second stream, made from those of the first."""

    def check(self, prompts: Sequence[Prompt]) -> None:
        """Refuse prompts of which there is no such view. Raises ModelError."""

    def of(self, vlm: Vlm, prompts: Sequence[Prompt], seed: int) -> list[Prompt]:
        """One prompt each; images are prepared (`ImageInputs`), equal ones the same object."""


@dataclass(frozen=True, slots=True)
class DiffusedImage:
    """The image after `step` of VCD's 1,000 diffusion steps, applied to the processed pixels.

    The noise depends on the seed and the pixels alone, so it is the same for every question
    about an image, wherever the image stands.
    """

    step: int = 500

    def __post_init__(self) -> None:
        diffusion_rates(self.step)  # refuses an impossible step at once

    def check(self, prompts: Sequence[Prompt]) -> None:
        _need(prompts, lambda prompt: prompt.image is not None, "an image")

    def of(self, vlm: Vlm, prompts: Sequence[Prompt], seed: int) -> list[Prompt]:
        shown = {id(prompt.image): prompt.image for prompt in prompts}
        noised = {key: self._noised(vlm, image, seed) for key, image in shown.items()}
        return [replace(prompt, image=noised[id(prompt.image)]) for prompt in prompts]

    def _noised(self, vlm: Vlm, image: object, seed: int) -> ImageInputs:
        assert isinstance(image, ImageInputs)
        pixels = image.tensors["pixel_values"]
        signal, spread = diffusion_rates(self.step)
        noise = vlm.adapter.pixel_noise(vlm.processor, pixels, content_seed(f"vcd {seed}", image))
        tensors = image.tensors | {"pixel_values": signal * pixels + spread * noise}
        return replace(image, tensors=tensors)


@dataclass(frozen=True, slots=True)
class NoImage:
    """The same text without the image."""

    def check(self, prompts: Sequence[Prompt]) -> None:
        _need(prompts, lambda prompt: prompt.image is not None, "an image")

    def of(self, vlm: Vlm, prompts: Sequence[Prompt], seed: int) -> list[Prompt]:
        return [replace(prompt, image=None) for prompt in prompts]


@dataclass(frozen=True, slots=True)
class NoReference:
    """The same image and question without the retrieved context."""

    def check(self, prompts: Sequence[Prompt]) -> None:
        _need(prompts, lambda prompt: bool(prompt.context), "a context (`Reference:`)")

    def of(self, vlm: Vlm, prompts: Sequence[Prompt], seed: int) -> list[Prompt]:
        return [replace(prompt, context="") for prompt in prompts]


@dataclass(frozen=True, slots=True)
class Disturbed:
    """The same image with a confusing instruction in front of the question."""

    instruction: str = "You are a confused object detector."

    def check(self, prompts: Sequence[Prompt]) -> None:
        """Every prompt has such a view."""

    def of(self, vlm: Vlm, prompts: Sequence[Prompt], seed: int) -> list[Prompt]:
        return [replace(prompt, question=f"{self.instruction} {prompt.question}") for prompt in prompts]


@dataclass(frozen=True, slots=True)
class ContrastiveDecoder:
    """Decodes each prompt beside one view of it, as two streams of one batch."""

    view: View
    contrast: Contrast = Contrast()
    temperature: float = 0.0
    """0 takes the largest score; above, tokens are drawn from the scores."""

    def check(self, vlm: Vlm) -> None:
        """Every family has every view."""

    def generate(
        self,
        vlm: Vlm,
        prompts: Sequence[Prompt],
        *,
        max_new_tokens: int = 64,
        batch_size: int = 16,
        seed: int = 0,
    ) -> list[Answer]:
        """One answer a prompt, in order. `seed` is the noise's too."""
        check_sizes(max_new_tokens, batch_size)
        self.view.check(prompts)
        found: dict[int, Answer] = {}
        for window in image_windows(prompts, _WINDOW * batch_size):
            own = _prepared(vlm, [prompts[i] for i in window])
            samples = vlm.generate(
                own,
                max_new_tokens=max_new_tokens,
                temperature=self.temperature,
                seed=seed,
                batch_size=2 * batch_size,  # both streams of a prompt count there
                strategy=self.contrast,
                streams=[self.view.of(vlm, own, seed)],
            )
            found |= {i: answers[0] for i, answers in zip(window, samples, strict=True)}
        return [found[i] for i in range(len(prompts))]


def _prepared(vlm: Vlm, prompts: Sequence[Prompt]) -> list[Prompt]:
    """The prompts with each image as its processor gives it, computed once an image object."""
    images: dict[int, ImageInputs] = {}
    for prompt in prompts:
        image = prompt.image
        if isinstance(image, ImageInputs):
            images[id(image)] = image
        elif image is not None and id(image) not in images:
            images[id(image)] = vlm.adapter.image_inputs(vlm.processor, image)
    return [replace(prompt, image=images.get(id(prompt.image))) for prompt in prompts]


def _need(prompts: Sequence[Prompt], holds: Callable[[Prompt], bool], what: str) -> None:
    """Refuse the first prompt that lacks what its view takes away."""
    lacking = next((i for i, prompt in enumerate(prompts) if not holds(prompt)), None)
    if lacking is not None:
        raise ModelError(expected=f"prompts with {what} to contrast with", got=f"prompt {lacking} without")
