"""OPERA (arXiv 2311.17911): beam search that is penalised for leaning on one of its own tokens.

An answer token costs one forward pass over the candidates of every beam of every prompt
(`lookahead`), whose states serve as the next step's; the choice and the rollbacks are each
prompt's own affair (`retrospection`, with the formulas in `overtrust` and the beams'
bookkeeping in `frontier`), so an answer does not depend on its neighbours. The released code
works for batch 1 only (its rollback takes one place for the whole batch), runs a pass for
each candidate and then the chosen ones again, and keeps whole attention maps.

Under an intervention stack the attention is read as the model uses it: after PAI's boost. SPIN
scales what heads put out and leaves the weights as they are; steering acts elsewhere.

Names: K beams of a prompt, R = prompts * K rows, C candidates of a row, S slots, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch

from sightline.decoding.base import check_sizes
from sightline.decoding.lookahead import LookAhead
from sightline.decoding.retrospection import Candidates, OverTrust, Rollback, Search, Selected
from sightline.models.cache import RowCache
from sightline.models.capture import image_windows
from sightline.models.decode import check_length
from sightline.models.prefix import SharedForward
from sightline.records import Answer

if TYPE_CHECKING:
    from sightline.models.encoding import EncodedRow
    from sightline.models.prompts import Prompt
    from sightline.models.vlm import Vlm

_WINDOW = 8
"""Batches of prompts whose pixels are in memory together."""


@dataclass(slots=True)
class Cost:
    """What a call of `Opera.generate` took beside a beam search's own cache."""

    passes: int = 0
    """Forward passes after the prompts'."""
    rollbacks: int = 0
    kept_bytes: int = 0
    """Most that was held at once for penalty and rollback, the attention just read included."""


@dataclass(slots=True)
class _Row:
    """One prompt being answered by K rows of the batch."""

    search: Search
    position: int
    """Of the first answer token."""
    first_V: torch.Tensor
    """The prompt's logits: where a rollback to the very beginning goes on."""


@dataclass(slots=True)
class _Batch:
    """Prompts under way, K rows each, in order."""

    rows: list[_Row]
    cache: RowCache
    logits_RV: torch.Tensor
    """Of the token to choose next."""

    def kept(self, places: Sequence[int]) -> _Batch:
        """Only these prompts."""
        if len(places) == len(self.rows):
            return self
        beams = len(self.logits_RV) // len(self.rows)
        index_R = _index([p * beams + k for p in places for k in range(beams)], self.logits_RV)
        return _Batch([self.rows[p] for p in places], self.cache.kept(index_R), self.logits_RV[index_R])

    def joined(self, other: _Batch) -> _Batch:
        """The prompts of both."""
        logits_RV = torch.cat([self.logits_RV, other.logits_RV])
        return _Batch(self.rows + other.rows, self.cache.joined(other.cache), logits_RV)


@dataclass
class Opera:
    """OPERA as a way to answer prompts; a `base.Decoder`."""

    trust: OverTrust = field(default_factory=OverTrust)
    cost: Cost = field(default_factory=Cost, init=False, compare=False)
    """Of the last call of `generate`."""

    def check(self, vlm: Vlm) -> None:
        """Raises ModelError for an attention back-end that cannot be read."""
        with LookAhead(vlm).attached():
            pass

    def generate(
        self,
        vlm: Vlm,
        prompts: Sequence[Prompt],
        *,
        max_new_tokens: int = 64,
        batch_size: int = 16,
        seed: int = 0,
    ) -> list[Answer]:
        """One answer a prompt, in order: `batch_size` prompts at once, K rows each.

        `logprob` is the model's own, without penalties. Nothing is drawn, so `seed` is unused.
        """
        check_sizes(max_new_tokens, batch_size)
        self.cost, look = Cost(), LookAhead(vlm)
        found: dict[int, Answer] = {}
        with vlm.inference(), look.attached():
            for window in image_windows(prompts, _WINDOW * batch_size):
                rows = vlm.encode([prompts[i] for i in window])
                check_length(vlm.adapter, vlm.model, max(map(len, rows)) + max_new_tokens)
                forward = SharedForward(vlm.adapter, vlm.model, vlm.image_token_id)
                for part in _batches(forward.parts(rows, batch_size), batch_size):
                    searches = {i: Search(self.trust, vlm.stop_ids, max_new_tokens) for i in part}
                    self._run(look, forward, rows, searches)
                    found |= {window[i]: _answer(vlm, search) for i, search in searches.items()}
        return [found[i] for i in range(len(prompts))]

    def _run(
        self,
        look: LookAhead,
        forward: SharedForward,
        rows: Sequence[EncodedRow],
        searches: dict[int, Search],
    ) -> None:
        """Take these searches to their end, together."""
        beams = self.trust.num_beams
        cache, first_RV, positions = look.prompts(forward, [rows[i] for i in searches], beams)
        states = [
            _Row(search, position, logits_V)
            for search, position, logits_V in zip(searches.values(), positions, first_RV, strict=True)
        ]
        batch = _Batch(states, cache, first_RV.repeat_interleave(beams, 0))
        while batch.rows:
            batch = self._step(look, batch)

    def _step(self, look: LookAhead, batch: _Batch) -> _Batch:
        """One look-ahead, and every prompt a token further, back where it went wrong, or done."""
        beams, lengths = self.trust.num_beams, [row.search.position for row in batch.rows]
        found, hidden_RCD = self._candidates(look, batch, lengths)
        branches = hidden_RCD.shape[1]
        stay = Selected(np.arange(beams), np.zeros(beams, dtype=np.int64))
        outcomes = [row.search.consider(f) for row, f in zip(batch.rows, found, strict=True)]
        chosen = [o if isinstance(o, Selected) else stay for o in outcomes]
        parents_R = _index([p * beams + c.parents_K for p, c in enumerate(chosen)], batch.logits_RV)
        picks_R = _index([c.picks_K for c in chosen], batch.logits_RV)
        # Up to where the longest answer begins, the beams of a prompt are equal.
        since = batch.cache.length - branches - max(lengths)
        batch.cache.branched(parents_R, picks_R, branches, since)
        batch.logits_RV = look.logits(hidden_RCD[parents_R, picks_R])
        going = [
            p
            for p, (row, outcome) in enumerate(zip(batch.rows, outcomes, strict=True))
            if isinstance(outcome, Selected) and not row.search.closed
        ]
        returning = [p for p, outcome in enumerate(outcomes) if isinstance(outcome, Rollback)]
        after = batch.kept(going) if going else None
        for p in returning:
            self.cost.rollbacks += 1
            returned = self._returned(look, batch.kept([p]), lengths[p] + 1)
            after = after.joined(returned) if after is not None else returned
        return after if after is not None else _Batch([], batch.cache, batch.logits_RV)

    def _candidates(
        self, look: LookAhead, batch: _Batch, lengths: Sequence[int]
    ) -> tuple[list[Candidates], torch.Tensor]:
        """Each prompt's candidates, and the states (R, C, D) they would leave the model in."""
        beams, logits_RV = self.trust.num_beams, batch.logits_RV
        positions_P = [row.position + length for row, length in zip(batch.rows, lengths, strict=True)]
        positions_R = _index([[position] * beams for position in positions_P], logits_RV)
        logits_RC, ids_RC = self._open(batch).topk(min(self.trust.candidates, logits_RV.shape[1]))
        logprobs_RC = logits_RC - logits_RV.logsumexp(-1, keepdim=True)
        end, longest = batch.cache.length, max(lengths)
        hidden_RCD, weights_RCS, image_RC = look.branches(batch.cache, ids_RC, positions_R)
        own_RC1 = weights_RCS[:, :, end:].diagonal(dim1=1, dim2=2).unsqueeze(-1)
        weights_RCM = torch.cat([weights_RCS[:, :, end - longest : end], own_RC1], dim=-1)
        self.cost.passes += 1
        kept = sum(row.search.nbytes + row.first_V.nbytes for row in batch.rows)
        self.cost.kept_bytes = max(self.cost.kept_bytes, kept + look.read_bytes + weights_RCS.nbytes)
        parts = [t.cpu().numpy() for t in (ids_RC, logits_RC, logprobs_RC, weights_RCM, image_RC)]
        found = []
        for p, length in enumerate(lengths):
            ids, logits, logprobs, weights, image = (t[p * beams : (p + 1) * beams] for t in parts)
            found.append(Candidates(ids, logits, logprobs, weights[:, :, longest - length :], image))
        return found, hidden_RCD

    def _open(self, batch: _Batch) -> torch.Tensor:
        """The logits, without what must not become a candidate."""
        barred = [
            (p * self.trust.num_beams + beam, token)
            for p, row in enumerate(batch.rows)
            for beam, token in row.search.barred
        ]
        if not barred:
            return batch.logits_RV
        places = _index(barred, batch.logits_RV).view(-1, 2)
        open_RV = batch.logits_RV.clone()
        open_RV[places[:, 0], places[:, 1]] = -torch.inf
        return open_RV

    def _returned(self, look: LookAhead, batch: _Batch, slots: int) -> _Batch:
        """One prompt with its last `slots` slots replaced by the answer it has gone back to."""
        (row,) = batch.rows
        # A batch of one prompt is kept as it is, so its cache may be changed.
        batch.cache.rewind(slots)
        tokens_KN = row.search.now.frontier.tokens_KN
        if tokens_KN.shape[1] == 0:
            batch.logits_RV = row.first_V.expand(len(tokens_KN), -1)
        else:
            self.cost.passes += 1
            batch.logits_RV = look.replayed(batch.cache, _index(tokens_KN, row.first_V), row.position)
        return batch


def _answer(vlm: Vlm, search: Search) -> Answer:
    """The best answer that has ended."""
    best = search.now.frontier.ended[0]
    return Answer(vlm.text(best.token_ids), best.token_ids, best.logprob, best.token_ids[-1] in vlm.stop_ids)


def _batches(parts: Sequence[list[int]], most: int) -> Iterator[list[int]]:
    """Parts put together up to `most` rows."""
    taken: list[int] = []
    for part in parts:
        if taken and len(taken) + len(part) > most:
            yield taken
            taken = []
        taken = taken + part
    if taken:
        yield taken


def _index(values: Sequence[object] | np.ndarray, like: torch.Tensor) -> torch.Tensor:
    """Nested integers as one long tensor beside `like`; a list of lists is made flat."""
    array = np.asarray(values, dtype=np.int64)
    if isinstance(values, list):
        array = array.ravel()
    return torch.from_numpy(array).to(like.device)
