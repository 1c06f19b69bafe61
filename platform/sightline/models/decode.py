"""Greedy and sampled decoding of many rows, with answers of different lengths.

Rows are prefilled in packed groups (`prefix`), decoded together one token a step, and a
row that has ended makes room: whenever half of the batch has ended, the others are
compacted and waiting rows join them. What a row answers does not depend on its
neighbours: positions are its own, padding is hidden, and random numbers are drawn from
a seed and the row's own content.

Plain decoding only: a checkpoint's `generation_config` gives its stop tokens, nothing
else (no repetition penalty, no beams).
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from transformers.cache_utils import DynamicCache

from sightline.errors import ModelError
from sightline.models.cache import RowCache
from sightline.models.encoding import EncodedRow
from sightline.models.prefix import SharedForward, attention_mask

if TYPE_CHECKING:
    from sightline.models.adapters.base import Adapter


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is chosen. `temperature` 0 is greedy; `seed` matters above 0 only."""

    max_new_tokens: int
    temperature: float = 0.0
    num_samples: int = 1
    seed: int = 0


@dataclass(slots=True)
class Continuation:
    """What one row (or one sample of it) was continued with, the stop token included."""

    row: int
    sample: int
    draws: list[float]
    """Uniform numbers in [0, 1), one a token; empty when greedy."""
    ids: list[int] = field(default_factory=list)
    logprob: float = 0.0
    """Sum of the ids' natural log-probabilities at temperature 1."""
    finished: bool = False
    """Whether it ended with a stop token."""
    ended: bool = False
    """Finished, or cut off at `max_new_tokens`."""


@dataclass(slots=True)
class _Batch:
    """Rows being decoded. `next_ids_R` are chosen but not yet fed to the model."""

    continuations: list[Continuation]
    cache: RowCache
    next_ids_R: torch.Tensor
    positions_R: torch.Tensor
    """The position of the token to feed next; one number serves all axes."""

    def kept(self) -> _Batch | None:
        """The rows that go on, or None when there are none."""
        keep = [i for i, c in enumerate(self.continuations) if not c.ended]
        if not keep:
            return None
        if len(keep) == len(self.continuations):
            return self
        rows = torch.tensor(keep, device=self.next_ids_R.device)
        return _Batch(
            [self.continuations[i] for i in keep],
            self.cache.kept(rows),
            self.next_ids_R[rows],
            self.positions_R[rows],
        )

    def joined(self, other: _Batch) -> _Batch:
        """The rows of both."""
        return _Batch(
            self.continuations + other.continuations,
            self.cache.joined(other.cache),
            torch.cat([self.next_ids_R, other.next_ids_R]),
            torch.cat([self.positions_R, other.positions_R]),
        )


@dataclass(frozen=True)
class Decoding:
    """A model and how to decode with it; `__call__` does the work."""

    adapter: Adapter
    model: Any
    sampling: Sampling
    stop_ids: frozenset[int]
    image_token_id: int
    batch_size: int
    """Most rows (samples counted) decoded at once."""
    reuse_prefix: bool = True

    def __call__(self, rows: Sequence[EncodedRow]) -> list[list[Continuation]]:
        """Continue each row's prompt; `num_samples` continuations a row, in the rows' order."""
        longest = max((len(row) for row in rows), default=0)
        check_length(self.adapter, self.model, longest + self.sampling.max_new_tokens)
        results: list[list[Continuation]] = [[] for _ in rows]
        forward = SharedForward(self.adapter, self.model, self.image_token_id, reuse_prefix=self.reuse_prefix)
        # No part larger than half a batch: it can join when the other half has ended.
        most = max(1, self.batch_size // (2 * self.sampling.num_samples))
        waiting = deque(forward.parts(rows, most))
        batch: _Batch | None = None
        while waiting or batch is not None:
            free = self.batch_size - (len(batch.continuations) if batch is not None else 0)
            taken = _take(waiting, free // self.sampling.num_samples, at_least_one=batch is None)
            if taken:
                fresh = self._prefill(forward, rows, taken)
                for continuation in fresh.continuations:
                    results[continuation.row].append(continuation)
                batch = batch.joined(fresh) if batch is not None else fresh
            assert batch is not None
            self._advance(batch, refill=bool(waiting))
            batch = batch.kept()
        return results

    def _prefill(self, forward: SharedForward, rows: Sequence[EncodedRow], taken: list[int]) -> _Batch:
        """Run the prompts of the rows `taken` and choose the first token of each sample."""
        cache = DynamicCache()
        hidden_GTD, packed = forward([rows[i] for i in taken], cache)
        samples = range(self.sampling.num_samples)
        order = [(r, s) for r in range(len(taken)) for s in samples]
        groups = [packed.group_R[r] for r, _ in order]
        paths = [packed.path_R[r] for r, _ in order]
        last = [int(path[-1]) for path in paths]
        hidden_RD = hidden_GTD[groups, last]
        positions_R = packed.positions_AGT[0, groups, last].to(hidden_RD.device) + 1
        batch = _Batch(
            [Continuation(taken[r], s, self._draws(rows[taken[r]], s)) for r, s in order],
            RowCache.from_packed(cache, groups, paths),
            torch.empty(0),
            positions_R,
        )
        self._choose(batch, hidden_RD)
        return batch

    def _advance(self, batch: _Batch, *, refill: bool) -> None:
        """Step until every row has ended; sooner, when half the batch is free and rows wait.

        Without rows waiting it also stops when half of a larger batch has ended, so that
        the caller drops the ended rows.
        """
        size = self.batch_size if refill else len(batch.continuations)
        enough = size // 2 if refill or size > 4 else 0
        while (active := sum(not c.ended for c in batch.continuations)) > 0:
            if active <= enough and active < len(batch.continuations):
                return
            self._step(batch)

    def _step(self, batch: _Batch) -> None:
        """Feed the chosen tokens and choose the next ones."""
        decoder, cache = self.adapter.decoder(self.model), batch.cache
        cache.reserve()
        embeds_R1D = self.adapter.embeddings(self.model)(batch.next_ids_R[:, None])
        visible = cache.visible(cache.length + 1)
        positions_R1 = batch.positions_R[:, None]
        axes = self.adapter.position_axes
        outputs = decoder(
            inputs_embeds=embeds_R1D,
            attention_mask=attention_mask(decoder, visible, embeds_R1D.dtype),
            position_ids=positions_R1 if axes == 1 else positions_R1.expand(axes, -1, -1),
            past_key_values=cache,
            use_cache=True,
        )
        batch.positions_R = batch.positions_R + 1
        self._choose(batch, outputs.last_hidden_state[:, -1])

    def _choose(self, batch: _Batch, hidden_RD: torch.Tensor) -> None:
        """Pick each row's next token from its hidden state and record it."""
        logits_RV = self.adapter.lm_head(self.model)(hidden_RD).float()
        ids_R = self._sample(batch, logits_RV) if self.sampling.temperature > 0 else logits_RV.argmax(-1)
        logprobs_R = logits_RV.gather(1, ids_R[:, None])[:, 0] - logits_RV.logsumexp(-1)
        batch.next_ids_R = ids_R
        for continuation, token, logprob in zip(
            batch.continuations, ids_R.tolist(), logprobs_R.tolist(), strict=True
        ):
            if continuation.ended:
                continue
            continuation.ids.append(token)
            continuation.logprob += logprob
            continuation.finished = token in self.stop_ids
            full = len(continuation.ids) >= self.sampling.max_new_tokens
            continuation.ended = continuation.finished or full

    def _sample(self, batch: _Batch, logits_RV: torch.Tensor) -> torch.Tensor:
        """Inverse-transform sampling: the token whose share of the unit interval holds the draw."""
        draws = [c.draws[min(len(c.ids), len(c.draws) - 1)] for c in batch.continuations]
        draws_R1 = torch.tensor(draws, dtype=torch.float64, device=logits_RV.device)[:, None]
        edges_RV = (logits_RV.double() / self.sampling.temperature).softmax(-1).cumsum(-1)
        ids_R = torch.searchsorted(edges_RV, draws_R1 * edges_RV[:, -1:], right=True)[:, 0]
        return ids_R.clamp_(max=logits_RV.shape[1] - 1)

    def _draws(self, row: EncodedRow, sample: int) -> list[float]:
        """Random numbers that depend on the seed and the row's content, not on its place."""
        if self.sampling.temperature == 0:
            return []
        digest = hashlib.sha256(f"{self.sampling.seed} {sample} {row.prompt_ids}".encode())
        if row.image is not None:
            for name in sorted(row.image.tensors):
                digest.update(row.image.tensors[name].numpy().tobytes())
        generator = torch.Generator().manual_seed(int.from_bytes(digest.digest()[:7], "big"))
        return torch.rand(self.sampling.max_new_tokens, generator=generator, dtype=torch.float64).tolist()


def _take(waiting: deque[list[int]], free: int, *, at_least_one: bool) -> list[int]:
    """Rows of the first waiting groups that fit into `free`."""
    taken: list[int] = []
    while waiting and (len(taken) + len(waiting[0]) <= free or (at_least_one and not taken)):
        taken += waiting.popleft()
    return taken


def check_length(adapter: Adapter, model: Any, length: int) -> None:
    """Refuse sequences past the model's positions or its sliding window.

    Past its positions a model answers nonsense without an error, and the packed masks do
    not cut at a window.
    """
    config = adapter.decoder(model).config
    limits = {"positions": config.max_position_embeddings, "window": adapter.attention_window(config)}
    for name, limit in limits.items():
        if limit is not None and length > limit:
            raise ModelError(
                expected=f"sequences of at most {limit} tokens (this model's {name})",
                got=str(length),
                hint="shorten the prompt or max_new_tokens, or use smaller images",
            )
