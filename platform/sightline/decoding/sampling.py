"""Sampling at a temperature, from the likeliest tokens only: transformers' warpers, our draws.

Stock `generate` draws for a whole batch from one stream of random numbers, so what a prompt is
answered depends on the prompts beside it. Here a token is drawn by `Vlm.generate`, whose
random numbers come from a seed and the row's own content; only which tokens may be drawn is
transformers' (`TopKLogitsWarper`, `TopPLogitsWarper`, in its order, after the temperature).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from transformers import TopKLogitsWarper, TopPLogitsWarper

from sightline.errors import ModelError
from sightline.models.strategy import Step
from sightline.records import Answer

if TYPE_CHECKING:
    from sightline.models.prompts import Prompt
    from sightline.models.vlm import Vlm

_NO_IDS: Any = None
"""These warpers take the tokens so far and do not look at them."""


@dataclass(frozen=True, slots=True)
class Nucleus:
    """The strategy: logits, -inf beyond the `top_k` likeliest and the `top_p` of probability.

    `top_k` 0 and `top_p` 1 leave all tokens in. The nucleus is that of the distribution drawn
    from, so it depends on the temperature, which the engine applies again to what is left.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    layers: ClassVar[tuple[int, ...]] = ()

    def scores(self, step: Step) -> torch.Tensor:
        """(R, V); each row by itself."""
        logits_RV = step.logits_KRV[0]
        warped_RV = logits_RV / self.temperature
        if self.top_k > 0:
            warped_RV = TopKLogitsWarper(self.top_k)(_NO_IDS, warped_RV)
        if self.top_p < 1.0:
            warped_RV = TopPLogitsWarper(self.top_p)(_NO_IDS, warped_RV)
        return logits_RV.masked_fill(warped_RV.isneginf(), -torch.inf)


@dataclass(frozen=True, slots=True)
class Sampler:
    """One sampled answer a prompt; the same for the same seed, whatever stands beside it."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0

    def __post_init__(self) -> None:
        if not (self.temperature > 0 and 0 < self.top_p <= 1 and self.top_k >= 0):
            raise ModelError(
                expected="temperature above 0, top_p above 0 and at most 1, top_k of at least 0",
                got=f"{self.temperature}, {self.top_p} and {self.top_k}",
            )

    def check(self, vlm: Vlm) -> None:
        """Every model can."""

    def generate(
        self,
        vlm: Vlm,
        prompts: Sequence[Prompt],
        *,
        max_new_tokens: int = 64,
        batch_size: int = 16,
        seed: int = 0,
    ) -> list[Answer]:
        """One answer a prompt, in order."""
        every = self.top_p == 1.0 and self.top_k == 0
        samples = vlm.generate(
            prompts,
            max_new_tokens=max_new_tokens,
            temperature=self.temperature,
            seed=seed,
            batch_size=batch_size,
            strategy=None if every else Nucleus(self.temperature, self.top_p, self.top_k),
        )
        return [answers[0] for answers in samples]
