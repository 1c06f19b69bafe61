"""From prompts to token ids, spans and pixel tensors, one sequence at a time, unpadded.

The pixels of one PIL object are computed once, however many prompts hold it; the text is
tokenised apart from them, with the image's placeholder expanded by the processor's own
rule, so the ids equal those of the processor's full call (the tests compare them).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from sightline.errors import ModelError, SpanError
from sightline.models.prompts import Prompt
from sightline.models.spans import Spans, runs_of, token_range

if TYPE_CHECKING:
    import torch

    from sightline.models.adapters.base import Adapter


@dataclass(frozen=True, slots=True, eq=False)
class ImageInputs:
    """One image as its model takes it. Rows with the same PIL object share this object."""

    tensors: dict[str, torch.Tensor]
    """The processor's tensors of this image alone, without a batch axis."""
    placeholder: str
    """The text that stands for the image in the prompt, expanded."""
    num_tokens: int
    """Image tokens in that text, which is also the number of its feature vectors."""


@dataclass(frozen=True, slots=True, eq=False)
class EncodedRow:
    """One sequence: prompt, and answer if one was given. Nothing is padded."""

    ids: list[int]
    spans: Spans
    image: ImageInputs | None
    text_inputs: dict[str, list[int]] = field(default_factory=dict)
    """Token ids beside `ids` that some families want (InstructBLIP's Q-Former)."""

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def prompt_ids(self) -> list[int]:
        """The ids a model is to continue."""
        return self.ids[: self.spans.answer.start]

    @property
    def answer_ids(self) -> list[int]:
        """The answer's ids, the turn-ending token included; empty without an answer."""
        return self.ids[self.spans.answer]


Encoded = list[EncodedRow]


def content_seed(text: str, image: ImageInputs | None) -> int:
    """A seed that depends on a text and an image's content alone, below 2**56."""
    digest = hashlib.sha256(text.encode())
    if image is not None:
        for name in sorted(image.tensors):
            digest.update(image.tensors[name].numpy().tobytes())
    return int.from_bytes(digest.digest()[:7], "big")


def encode(
    adapter: Adapter, processor: Any, prompts: Sequence[Prompt], answers: Sequence[str] | None = None
) -> Encoded:
    """Encode each prompt, or each prompt with its answer.

    Raises ModelError when the numbers of prompts and answers differ, SpanError when a
    part cannot be located exactly.
    """
    if answers is not None and len(answers) != len(prompts):
        raise ModelError(expected=f"{len(prompts)} answers, one a prompt", got=str(len(answers)))
    if not prompts:
        return []
    images: dict[int, ImageInputs] = {}
    for prompt in prompts:
        shown = prompt.image
        if shown is not None and id(shown) not in images:
            if not isinstance(shown, ImageInputs):
                shown = adapter.image_inputs(processor, shown)
            images[id(prompt.image)] = shown
    rows_images = [images[id(p.image)] if p.image is not None else None for p in prompts]
    heads, texts = _texts(adapter, processor, prompts, rows_images)
    tokenized = _tokenize(processor, texts)
    if answers is None:
        whole = tokenized
    else:
        frames = [adapter.frame(processor, p.image is not None) for p in prompts]
        joined = [text + f.answer(a) for text, f, a in zip(texts, frames, answers, strict=True)]
        whole = _tokenize(processor, joined)
    rows = []
    for i, prompt in enumerate(prompts):
        ids, prompt_length = whole["input_ids"][i], len(tokenized["input_ids"][i])
        if ids[:prompt_length] != tokenized["input_ids"][i]:
            raise SpanError(
                expected="the prompt's tokens to stay the same when an answer follows",
                got=f"a token across the end of {texts[i][-20:]!r}",
            )
        question = token_range(
            texts[i],
            (len(heads[i]), len(heads[i]) + len(prompt.text)),
            partial(tokenized.char_to_token, i),
            partial(tokenized.token_to_chars, i),
        )
        rows.append(_row(adapter, processor, prompt, ids, prompt_length, question, rows_images[i]))
    return rows


def _texts(
    adapter: Adapter, processor: Any, prompts: Sequence[Prompt], images: Sequence[ImageInputs | None]
) -> tuple[list[str], list[str]]:
    """Each prompt's string up to the question, and the whole of it, placeholders expanded."""
    heads, texts = [], []
    for prompt, image in zip(prompts, images, strict=True):
        frame = adapter.frame(processor, image is not None)
        head = frame.head if image is None else adapter.expand(processor, frame.head, image)
        heads.append(head)
        texts.append(f"{head}{prompt.text}{frame.tail}")
    return heads, texts


def _tokenize(processor: Any, texts: list[str]) -> Any:
    tokenizer = processor.tokenizer
    if not tokenizer.is_fast:
        raise ModelError(
            expected="a fast tokenizer (it knows character offsets)", got=type(tokenizer).__name__
        )
    return tokenizer(texts, padding=False, truncation=False)


def _row(
    adapter: Adapter,
    processor: Any,
    prompt: Prompt,
    ids: list[int],
    prompt_length: int,
    question: slice,
    image: ImageInputs | None,
) -> EncodedRow:
    """Put the adapter's leading ids (if any) in front and check the image tokens' number."""
    leading = adapter.leading_ids(processor, image) if image is not None else []
    shift, total = len(leading), len(leading) + len(ids)
    ids = leading + ids
    question = slice(question.start + shift, question.stop + shift)
    prompt_length += shift
    runs = runs_of(ids, adapter.image_token_id(processor))
    found, expected = sum(r.stop - r.start for r in runs), image.num_tokens if image is not None else 0
    if found != expected:
        raise SpanError(
            expected=f"{expected} image tokens",
            got=f"{found}",
            hint="a question or an answer must not contain the image placeholder itself",
        )
    spans = Spans(runs, question, slice(question.stop, prompt_length), slice(prompt_length, total))
    return EncodedRow(ids, spans, image, adapter.text_inputs(processor, prompt))
