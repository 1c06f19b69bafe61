"""A vision-language model with its processor: load, encode, generate, score, capture, save.

The one object the rest of the library holds. It knows no datasets, prompts' wording
(`prompts`) or families (`adapters`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from sightline.errors import ModelError
from sightline.models.adapters import Adapter, adapter_for
from sightline.models.collate import collate
from sightline.models.encoding import Encoded, EncodedRow, encode
from sightline.models.identity import identity_of_files, identity_of_weights
from sightline.models.prompts import Prompt
from sightline.records import Answer

if TYPE_CHECKING:
    import numpy as np
    import torch

    from sightline.activations.sites import Site
    from sightline.config.model import ModelConfig
    from sightline.models.strategy import Strategy

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
AttentionKind = Literal["sdpa", "eager"]
_WINDOW = 8
"""Batches of prompts whose pixels are in memory together, so that rows can join."""


class Vlm:
    """A model of a known family. Build one around parts you have, or `load` a checkpoint."""

    def __init__(
        self, model: Any, processor: Any, *, source: str = "memory", revision: str = "", identity: str = ""
    ):
        """`model` is transformers' `...ForConditionalGeneration` itself, not a wrapper of it.

        Raises UnknownFamilyError for a model type without an adapter.
        """
        self.model, self.processor = model, processor
        self.adapter: Adapter = adapter_for(model.config.model_type)
        self.source, self.revision = source, revision
        self._identity = identity

    @classmethod
    def load(
        cls,
        source: str = "world",
        *,
        revision: str | None = None,
        dtype: Dtype = "auto",
        device: str = "auto",
        attention: AttentionKind = "sdpa",
        adapter_path: str | None = None,
    ) -> Self:
        """Load a checkpoint folder, a Hugging Face id, or "world", the packaged reference VLM.

        `dtype` "auto" is the checkpoint's own on a GPU and float32 on a CPU. `adapter_path`
        names a LoRA adapter that is merged into the weights. Raises ModelError when
        something is missing, UnknownFamilyError when no adapter knows the architecture.
        """
        from sightline.models.loading import load_parts

        parts = load_parts(source, revision, dtype, device, attention, adapter_path)
        identity = identity_of_files(parts.folder, adapter_path)
        return cls(parts.model, parts.processor, source=source, revision=parts.revision, identity=identity)

    @classmethod
    def of(cls, config: ModelConfig) -> Self:
        """What a job's `model:` section names; see `load`."""
        return cls.load(
            config.source,
            revision=config.revision,
            dtype=config.dtype,
            device=config.device,
            attention=config.attention,
            adapter_path=config.adapter,
        )

    @cached_property
    def identity(self) -> str:
        """A hash of weights, config, processor and chat template: what caches are keyed by.

        It names what was loaded (or, for a Vlm built from parts, what the weights were at
        the first look): weights trained since then are another model.
        """
        return self._identity or identity_of_weights(self.model, self.processor)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.device

    @property
    def tokenizer(self) -> Any:
        """The processor's tokenizer."""
        return self.processor.tokenizer

    @property
    def image_token_id(self) -> int:
        """The placeholder id of one image feature vector."""
        return self.adapter.image_token_id(self.processor)

    @property
    def end_id(self) -> int:
        """The turn-ending token: every answer span ends with it."""
        end = self.adapter.frame(self.processor, True).end
        return self.tokenizer(end, add_special_tokens=False)["input_ids"][-1]

    @property
    def stop_ids(self) -> frozenset[int]:
        """Tokens that end a generated answer: the turn's end and the checkpoint's own."""
        eos = self.model.generation_config.eos_token_id
        declared = eos if isinstance(eos, list) else [eos]
        ids = {self.end_id, self.tokenizer.eos_token_id, *declared}
        return frozenset(i for i in ids if i is not None)

    def encode(self, prompts: Sequence[Prompt], answers: Sequence[str] | None = None) -> Encoded:
        """Token ids, spans and pixels of each prompt (with its answer), unpadded."""
        return encode(self.adapter, self.processor, prompts, answers)

    def collate(
        self, rows: Sequence[EncodedRow], padding_side: Literal["left", "right"] = "right"
    ) -> dict[str, torch.Tensor]:
        """Pad rows into the inputs of `self.model(**inputs)`, on the CPU."""
        return collate(self.adapter, self.processor, rows, padding_side)

    def generate(
        self,
        prompts: Sequence[Prompt],
        *,
        max_new_tokens: int = 64,
        temperature: float = 0.0,
        num_samples: int = 1,
        seed: int = 0,
        batch_size: int = 16,
        reuse_prefix: bool = True,
        strategy: Strategy | None = None,
        streams: Sequence[Sequence[Prompt]] = (),
    ) -> list[list[Answer]]:
        """`num_samples` answers to each prompt; `temperature` 0 is greedy.

        Prompts that hold the same image object share its encoding and the keys and values
        of what they have in common (`reuse_prefix`). An answer depends on its prompt and
        the seed alone, never on its neighbours or `batch_size` (up to float noise).
        `logprob` is the model's own, at temperature 1, and includes the stop token.

        A `strategy` scores the next token in the logits' place. It may compare `streams`:
        each has one further prompt a row, and is fed the tokens chosen for the row.
        `batch_size` counts sequences: rows times samples times streams.
        """
        from sightline.models.decode import Decoding, Sampling

        if min(max_new_tokens, num_samples, batch_size) < 1 or not 0 <= temperature < float("inf"):
            raise ModelError(
                expected="max_new_tokens, num_samples, batch_size >= 1 and a finite temperature >= 0",
                got=f"{max_new_tokens}, {num_samples}, {batch_size}, {temperature}",
            )
        _check_streams(len(prompts), strategy, streams)
        decoding = Decoding(
            self.adapter,
            self.model,
            Sampling(max_new_tokens, temperature, num_samples, seed),
            self.stop_ids,
            self.image_token_id,
            batch_size,
            reuse_prefix,
            strategy,
        )
        continued = []
        with self.inference():
            for window in _windows(len(prompts), batch_size):
                views = [prompts[window], *(stream[window] for stream in streams)]
                # All in one call: what shows the same image object shares its pixels.
                rows = self.encode([prompt for view in views for prompt in view])
                size = len(views[0])
                first, *others = [rows[i : i + size] for i in range(0, len(rows), size)]
                continued += decoding(first, others)
        return [
            [Answer(self.text(c.ids), tuple(c.ids), c.logprob, c.finished) for c in samples]
            for samples in continued
        ]

    def generate_text(
        self, prompts: Sequence[Prompt], *, max_new_tokens: int = 64, batch_size: int = 16
    ) -> list[str]:
        """One greedy answer to each prompt, as text."""
        answers = self.generate(prompts, max_new_tokens=max_new_tokens, batch_size=batch_size)
        return [samples[0].text for samples in answers]

    def score(
        self,
        prompts: Sequence[Prompt],
        answers: Sequence[str],
        *,
        batch_size: int = 16,
        reuse_prefix: bool = True,
    ) -> list[Answer]:
        """The given answers with the sum of their tokens' natural log-probabilities.

        The turn-ending token is part of an answer and of its sum.
        """
        from sightline.models.scoring import token_logprobs

        if len(answers) != len(prompts):
            raise ModelError(expected=f"{len(prompts)} answers, one a prompt", got=str(len(answers)))
        scored = []
        with self.inference():
            for window in _windows(len(prompts), batch_size):
                rows = self.encode(prompts[window], answers[window])
                logprobs = token_logprobs(
                    self.adapter,
                    self.model,
                    rows,
                    image_token_id=self.image_token_id,
                    batch_size=batch_size,
                    reuse_prefix=reuse_prefix,
                )
                for text, row, values in zip(answers[window], rows, logprobs, strict=True):
                    scored.append(Answer(text, tuple(row.answer_ids), float(values.double().sum())))
        return scored

    @property
    def num_layers(self) -> int:
        """The decoder's blocks."""
        return len(self.adapter.text_blocks(self.model))

    def site_width(self, site: Site) -> int:
        """Features of one activation at `site`."""
        if site.layer is None:
            return self.adapter.vision_width(self.model)
        embeddings: Any = self.adapter.embeddings(self.model)
        return embeddings.weight.shape[1]

    def capture(
        self,
        prompts: Sequence[Prompt],
        sites: Sequence[Site],
        answers: Sequence[str] | None = None,
        *,
        batch_size: int = 16,
        reuse_prefix: bool = True,
    ) -> dict[str, np.ndarray]:
        """Activations: site name -> float32 (N, width), in the prompts' order.

        `capture` defines the sites. Prompts that hold the same image object share its vision
        pass and the keys and values of what they have in common (`reuse_prefix`); no value
        depends on its neighbours or `batch_size` (up to float noise). `answers` are needed
        for `answer_mean` alone. Raises ModelError for a site that this model or these prompts
        do not have.
        """
        import numpy as np

        from sightline.models.capture import Capture, check_sites, image_windows

        if answers is not None and len(answers) != len(prompts):
            raise ModelError(expected=f"{len(prompts)} answers, one a prompt", got=str(len(answers)))
        if batch_size < 1:
            raise ModelError(expected="a batch_size of at least 1", got=str(batch_size))
        check_sites(sites, self.num_layers, prompts, answers is not None)
        if not any(site.kind == "answer_mean" for site in sites):
            answers = None
        capture = Capture(
            self.adapter, self.model, tuple(sites), self.image_token_id, batch_size, reuse_prefix
        )
        found = {s.name: np.empty((len(prompts), self.site_width(s)), dtype=np.float32) for s in sites}
        with self.inference():
            for window in image_windows(prompts, _WINDOW * batch_size):
                given = [answers[i] for i in window] if answers is not None else None
                for name, values_ND in capture(self.encode([prompts[i] for i in window], given)).items():
                    found[name][window] = values_ND
        return found

    def save(self, folder: str | Path) -> None:
        """Write weights (safetensors), config, processor and template as one HF folder."""
        self.model.save_pretrained(folder)
        self.processor.save_pretrained(folder)

    def text(self, ids: Sequence[int]) -> str:
        """An answer's ids as text, without special tokens and outer white space."""
        return self.tokenizer.decode(ids, skip_special_tokens=True).strip()

    @contextmanager
    def inference(self) -> Iterator[None]:
        """No gradients and no dropout inside; the model's mode is put back afterwards."""
        import torch

        training = self.model.training
        self.model.eval()
        try:
            with torch.inference_mode():
                yield
        finally:
            self.model.train(training)


def _check_streams(count: int, strategy: Strategy | None, streams: Sequence[Sequence[Prompt]]) -> None:
    """Refuse streams that do not fit the prompts, or that nothing would compare."""
    if streams and strategy is None:
        raise ModelError(
            expected="a strategy that compares the streams", got=f"{len(streams)} of them and no strategy"
        )
    for stream in streams:
        if len(stream) != count:
            raise ModelError(expected=f"{count} prompts a stream, one a row", got=str(len(stream)))


def _windows(count: int, batch_size: int) -> list[slice]:
    """Stretches of prompts whose pixels are in memory together."""
    size = _WINDOW * batch_size
    return [slice(start, start + size) for start in range(0, count, size)]
