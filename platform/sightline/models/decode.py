"""Greedy and sampled decoding of many rows, with answers of different lengths.

Rows are prefilled in packed groups (`prefix`), decoded together one token a step, and a
row that has ended makes room: whenever half of the batch has ended, the others are
compacted and waiting rows join them. What a row answers does not depend on its
neighbours: positions are its own, padding is hidden, and random numbers are drawn from
a seed and the row's own content.

A row may be decoded as several streams that a `strategy` compares; without one the largest
logit wins. A checkpoint's `generation_config` gives its stop tokens, nothing else (no
repetition penalty, no beams).

Names: R rows, K streams a row, N = R * K sequences, A, G, T, D as in `prefix`, V vocabulary.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import torch
from transformers.cache_utils import DynamicCache

from sightline.errors import ModelError
from sightline.models.batch import Batch, Continuation
from sightline.models.cache import RowCache
from sightline.models.encoding import EncodedRow, content_seed
from sightline.models.passes import announce, step_pass
from sightline.models.prefix import SharedForward, attention_mask
from sightline.models.strategy import EarlyOutputs, Step, Strategy

if TYPE_CHECKING:
    from sightline.models.adapters.base import Adapter


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is chosen. `temperature` 0 is greedy; `seed` matters above 0 only."""

    max_new_tokens: int
    temperature: float = 0.0
    num_samples: int = 1
    seed: int = 0


@dataclass(frozen=True)
class Decoding:
    """A model and how to decode with it; `__call__` does the work."""

    adapter: Adapter
    model: Any
    sampling: Sampling
    stop_ids: frozenset[int]
    image_token_id: int
    batch_size: int
    """Most sequences (samples and streams counted) decoded at once."""
    reuse_prefix: bool = True
    strategy: Strategy | None = None

    @cached_property
    def _early(self) -> EarlyOutputs:
        layers = self.strategy.layers if self.strategy is not None else ()
        return EarlyOutputs(self.adapter, self.model, layers)

    def __call__(
        self, rows: Sequence[EncodedRow], others: Sequence[Sequence[EncodedRow]] = ()
    ) -> list[list[Continuation]]:
        """Continue each row's prompt; `num_samples` continuations a row, in the rows' order.

        `others` are further streams, each with one prompt a row.
        """
        bundles = [list(bundle) for bundle in zip(rows, *others, strict=True)]
        beside = [row for stream in others for row in stream]
        longest = max((len(row) for row in (*rows, *beside)), default=0)
        check_length(self.adapter, self.model, longest + self.sampling.max_new_tokens)
        results: list[list[Continuation]] = [[] for _ in rows]
        forward = SharedForward(self.adapter, self.model, self.image_token_id, reuse_prefix=self.reuse_prefix)
        width = self.sampling.num_samples * (1 + len(others))
        # No part larger than half a batch: it can join when the other half has ended.
        waiting = deque(forward.parts(rows, max(1, self.batch_size // (2 * width)), beside))
        batch: Batch | None = None
        with self._early.attached():
            while waiting or batch is not None:
                free = self.batch_size - (batch.size if batch is not None else 0)
                taken = _take(waiting, free // width, at_least_one=batch is None)
                if taken:
                    fresh = self._prefill(forward, bundles, taken)
                    for continuation in fresh.continuations:
                        results[continuation.row].append(continuation)
                    batch = batch.joined(fresh) if batch is not None else fresh
                assert batch is not None
                self._advance(batch, refill=bool(waiting))
                batch = batch.kept()
        return results

    def _prefill(
        self, forward: SharedForward, bundles: Sequence[Sequence[EncodedRow]], taken: list[int]
    ) -> Batch:
        """Run the prompts of the rows `taken` and choose the first token of each sample."""
        rows = [row for i in taken for row in bundles[i]]
        packed, inputs = forward.prepare(rows)
        streams = len(rows) // len(taken)
        samples = range(self.sampling.num_samples)
        order = [r * streams + k for r in range(len(taken)) for _ in samples for k in range(streams)]
        groups = [packed.group_R[n] for n in order]
        paths = [packed.path_R[n] for n in order]
        last = [int(path[-1]) for path in paths]
        self._early.expect(groups[::streams], last[::streams])
        cache = DynamicCache()
        hidden_GTD = forward.run(inputs, cache)
        batch = Batch(
            [Continuation(i, s, self._draws(bundles[i][0], s)) for i in taken for s in samples],
            streams,
            RowCache.from_packed(cache, groups, paths, [rows[n].spans.image_indices() for n in order]),
            torch.empty(0),
            packed.positions_AGT[0, groups, last].to(hidden_GTD.device) + 1,
        )
        self._choose(batch, hidden_GTD[groups, last])
        return batch

    def _advance(self, batch: Batch, *, refill: bool) -> None:
        """Step until every row has ended; sooner, when half the batch is free and rows wait.

        Without rows waiting it also stops when half of a larger batch has ended, so that
        the caller drops the ended rows.
        """
        size = self.batch_size // batch.streams if refill else len(batch.continuations)
        enough = size // 2 if refill or size > 4 else 0
        while (active := sum(not c.ended for c in batch.continuations)) > 0:
            if active <= enough and active < len(batch.continuations):
                return
            self._step(batch)

    def _step(self, batch: Batch) -> None:
        """Feed the chosen tokens, the same to all streams of a row, and choose the next ones."""
        decoder, cache = self.adapter.decoder(self.model), batch.cache
        cache.reserve()
        embeds_N1D = self.adapter.embeddings(self.model)(batch.next_ids_N()[:, None])
        visible = cache.visible(cache.length + 1)
        positions_N1 = batch.positions_N[:, None]
        axes = self.adapter.position_axes
        self._early.expect(slice(None, None, batch.streams), -1)
        announce(self.model, partial(step_pass, cache.images_RP, cache.starts_R, cache.length + 1))
        outputs = decoder(
            inputs_embeds=embeds_N1D,
            attention_mask=attention_mask(decoder, visible, embeds_N1D.dtype),
            position_ids=positions_N1 if axes == 1 else positions_N1.expand(axes, -1, -1),
            past_key_values=cache,
            use_cache=True,
        )
        batch.positions_N = batch.positions_N + 1
        self._choose(batch, outputs.last_hidden_state[:, -1])

    def _choose(self, batch: Batch, hidden_ND: torch.Tensor) -> None:
        """Pick each row's next token from its streams' hidden states and record it."""
        logits_NV = self.adapter.lm_head(self.model)(hidden_ND).float()
        logits_KRV = logits_NV.unflatten(0, (-1, batch.streams)).transpose(0, 1)
        logits_RV = logits_KRV[0]
        scores_RV = self._scores(batch, logits_KRV, hidden_ND)
        ids_R = self._sample(batch, scores_RV) if self.sampling.temperature > 0 else scores_RV.argmax(-1)
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

    def _scores(self, batch: Batch, logits_KRV: torch.Tensor, hidden_ND: torch.Tensor) -> torch.Tensor:
        """What the next tokens are chosen by: the strategy's scores, or the logits themselves."""
        if self.strategy is None:
            return logits_KRV[0]
        step = Step(
            logits_KRV,
            self._early.take(hidden_ND[:: batch.streams]),
            self.adapter.final_norm(self.model),
            self.adapter.lm_head(self.model),
            [c.ids for c in batch.continuations],
        )
        return self.strategy.scores(step)

    def _sample(self, batch: Batch, scores_RV: torch.Tensor) -> torch.Tensor:
        """Inverse-transform sampling: the token whose share of the unit interval holds the draw."""
        draws = [c.draws[min(len(c.ids), len(c.draws) - 1)] for c in batch.continuations]
        draws_R1 = torch.tensor(draws, dtype=torch.float64, device=scores_RV.device)[:, None]
        edges_RV = (scores_RV.double() / self.sampling.temperature).softmax(-1).cumsum(-1)
        ids_R = torch.searchsorted(edges_RV, draws_R1 * edges_RV[:, -1:], right=True)[:, 0]
        return ids_R.clamp_(max=scores_RV.shape[1] - 1)

    def _draws(self, row: EncodedRow, sample: int) -> list[float]:
        """Random numbers that depend on the seed and the row's content, not on its place."""
        if self.sampling.temperature == 0:
            return []
        seed = content_seed(f"{self.sampling.seed} {sample} {row.prompt_ids}", row.image)
        generator = torch.Generator().manual_seed(seed)
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
