"""Beam search through transformers' own `generate`.

Prompts are padded on the left into batches of the family's own inputs, so everything is the
stock model's: its forward (the image is encoded once a beam), its positions, its beams. Every
family of ours gives a prompt the same answer in any batch (fp32; the tests compare).
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from transformers import GenerationConfig, GenerationMixin

from sightline.decoding.base import check_sizes
from sightline.errors import ModelError
from sightline.models.decode import check_length
from sightline.records import Answer

if TYPE_CHECKING:
    from sightline.models.encoding import EncodedRow
    from sightline.models.prompts import Prompt
    from sightline.models.vlm import Vlm


@dataclass(frozen=True, slots=True)
class Beams:
    """The best of `num_beams` answers, by log-probability over length ** `length_penalty`.

    A checkpoint's `generation_config` gives its stop tokens, nothing else, as in `Vlm.generate`.
    """

    num_beams: int = 5
    length_penalty: float = 1.0

    def __post_init__(self) -> None:
        if self.num_beams < 2:
            raise ModelError(
                expected="num_beams of at least 2",
                got=str(self.num_beams),
                hint="one beam is greedy decoding: leave the decoder out",
            )

    def check(self, vlm: Vlm) -> None:
        """Raises ModelError for a model without transformers' `generate`."""
        if not _generators(vlm):
            raise ModelError(expected="a model that can generate", got=type(vlm.model).__name__)

    def generate(
        self,
        vlm: Vlm,
        prompts: Sequence[Prompt],
        *,
        max_new_tokens: int = 64,
        batch_size: int = 16,
        seed: int = 0,
    ) -> list[Answer]:
        """One answer a prompt, in order: `batch_size` prompts at once, `num_beams` rows each.

        `logprob` is the model's own. Nothing is drawn, so `seed` is unused. Raises ModelError
        for a prompt without an image where the family's `generate` needs one (InstructBLIP).
        """
        check_sizes(max_new_tokens, batch_size)
        self.check(vlm)
        if _needs_image(vlm) and any(prompt.image is None for prompt in prompts):
            name = type(vlm.model).__name__
            raise ModelError(expected=f"prompts with an image, for {name}.generate", got="one without")
        found: dict[int, Answer] = {}
        stop_ids = vlm.stop_ids  # the checkpoint's among them: read before its settings are gone
        with vlm.inference(), _plain(vlm):
            for batch in _batches(prompts, batch_size):
                rows = vlm.encode([prompts[i] for i in batch])
                found |= zip(batch, self._answered(vlm, rows, max_new_tokens, stop_ids), strict=True)
        return [found[i] for i in range(len(prompts))]

    def _answered(
        self, vlm: Vlm, rows: Sequence[EncodedRow], max_new_tokens: int, stop_ids: frozenset[int]
    ) -> list[Answer]:
        longest = max(map(len, rows))
        check_length(vlm.adapter, vlm.model, longest + max_new_tokens)
        inputs: dict[str, Any] = {n: t.to(vlm.device) for n, t in vlm.collate(rows, "left").items()}
        if "pixel_values" in inputs:
            inputs["pixel_values"] = inputs["pixel_values"].to(vlm.model.dtype)
        found = vlm.model.generate(
            **inputs,
            max_new_tokens=max_new_tokens,
            num_beams=self.num_beams,
            length_penalty=self.length_penalty,
            eos_token_id=sorted(stop_ids) or None,
            pad_token_id=vlm.tokenizer.pad_token_id,
            return_dict_in_generate=True,
            output_scores=True,
        )
        answers = []
        for ids, score in zip(found.sequences[:, longest:].tolist(), found.sequences_scores, strict=True):
            end = next((n for n, token in enumerate(ids, 1) if token in stop_ids), len(ids))
            logprob = float(score) * end**self.length_penalty
            answers.append(Answer(vlm.text(ids[:end]), tuple(ids[:end]), logprob, ids[end - 1] in stop_ids))
        return answers


@contextmanager
def _plain(vlm: Vlm) -> Iterator[None]:
    """The checkpoint's generation settings (penalties, sampling) out of the way."""
    own = {module: module.generation_config for module in _generators(vlm)}
    for module in own:
        module.generation_config = GenerationConfig()
    try:
        yield
    finally:
        for module, config in own.items():
            module.generation_config = config


def _generators(vlm: Vlm) -> list[Any]:
    """The model, and within InstructBLIP the language model to which it hands `generate` on."""
    return [module for module in vlm.model.modules() if isinstance(module, GenerationMixin)]


def _needs_image(vlm: Vlm) -> bool:
    """Whether the family's `generate` cannot be called without pixels."""
    pixels = inspect.signature(vlm.model.generate).parameters.get("pixel_values")
    return pixels is not None and pixels.default is pixels.empty


def _batches(prompts: Sequence[Prompt], most: int) -> Iterator[list[int]]:
    """Prompts of one kind together: a batch cannot mix those with and without an image."""
    for shown in (True, False):
        places = [i for i, prompt in enumerate(prompts) if (prompt.image is not None) == shown]
        yield from (places[start : start + most] for start in range(0, len(places), most))
