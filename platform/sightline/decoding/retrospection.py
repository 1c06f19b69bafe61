"""OPERA's search for one prompt: penalised beams that go back when they lean on one token.

`consider` is given what a look-ahead found for the candidates of every beam and either
chooses the next tokens or goes back: to the position after the place of over-trust, where
what was chosen then is forbidden, or, when that has been done too often, one further back.
Everything needed to go back is kept by position, in numbers a beam and a token, so what is
kept does not depend on the number of layers; keys and values are the caller's to restore.

Names as in `overtrust`; position n is where answer token n is chosen.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from sightline.decoding.frontier import GONE, Frontier
from sightline.decoding.overtrust import EARLY, extended, most_frequent, over_trust, summary_place
from sightline.errors import ModelError

Pairs = frozenset[tuple[int, int]]
"""(beam, token)."""


@dataclass(frozen=True, slots=True)
class OverTrust:
    """OPERA's settings. Defaults are the paper's and the code's."""

    num_beams: int = 5
    scale: float = 50.0
    """Factor of the attention before it is multiplied down a column."""
    threshold: int = 15
    """All live beams go back when each has pointed at one place more often than this."""
    candidates: int = 5
    """Likeliest tokens of a beam that are considered, and most rollbacks to one position."""
    penalty: float = 1.0
    """Weight of the penalty."""
    mode: Literal["paper", "released"] = "paper"
    """See `overtrust`."""

    def __post_init__(self) -> None:
        if self.num_beams < 2 or self.candidates < 2 or self.threshold < 1:
            raise ModelError(
                expected="num_beams and candidates of at least 2 and a threshold of at least 1",
                got=f"{self.num_beams}, {self.candidates} and {self.threshold}",
                hint="OPERA compares beams and candidates; without them use greedy or beam",
            )
        if not (math.isfinite(self.scale) and self.scale > 0 and math.isfinite(self.penalty)):
            raise ModelError(
                expected="a finite scale above 0 and a finite penalty",
                got=f"{self.scale} and {self.penalty}",
            )


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """What a look-ahead found for the C likeliest tokens of each beam."""

    tokens_KC: np.ndarray
    logits_KC: np.ndarray
    logprobs_KC: np.ndarray
    """The model's own, natural."""
    weights_KCM: np.ndarray
    """The candidate's attention to the answer's tokens and, last, to itself."""
    image_KC: np.ndarray
    """Its attention to the image, all tokens together."""


@dataclass(frozen=True, slots=True, eq=False)
class Moment:
    """The beams at one position, before its token is chosen."""

    frontier: Frontier
    columns_KN: np.ndarray
    """float64: logarithms of the column products of each beam's answer."""
    history_KN: np.ndarray
    """int32: the place that each beam pointed at when each of its tokens was chosen."""

    @property
    def nbytes(self) -> int:
        frontier = self.frontier
        arrays = (
            frontier.tokens_KN,
            frontier.scores_K,
            frontier.logprobs_K,
            self.columns_KN,
            self.history_KN,
        )
        return sum(array.nbytes for array in arrays)


@dataclass(frozen=True, slots=True, eq=False)
class Selected:
    """The beams go on: of each, the beam it continues and its candidate's place."""

    parents_K: np.ndarray
    picks_K: np.ndarray


@dataclass(frozen=True, slots=True)
class Rollback:
    """The beams are again what they were at `position`."""

    position: int


@dataclass
class Search:
    """One prompt being answered."""

    trust: OverTrust
    stop_ids: Collection[int]
    max_new_tokens: int
    now: Moment = field(init=False)
    past: list[Moment] = field(default_factory=list)
    """Moments before `now`, by position."""
    chosen: list[Pairs] = field(default_factory=list)
    """What was chosen at each of them."""
    times: dict[int, int] = field(default_factory=dict)
    """Rollbacks to a position so far; never forgotten, so that the search ends."""
    forbidden: dict[int, Pairs] = field(default_factory=dict)

    def __post_init__(self) -> None:
        beams = self.trust.num_beams
        self.now = Moment(Frontier.start(beams), np.empty((beams, 0)), np.empty((beams, 0), dtype=np.int32))

    @property
    def position(self) -> int:
        """Tokens chosen so far."""
        return self.now.frontier.length

    @property
    def closed(self) -> bool:
        """Whether nothing can be gained by going on."""
        return self.now.frontier.closed

    @property
    def barred(self) -> Pairs:
        """Pairs that must not become candidates now (`released`; `paper` strikes them out later)."""
        released = self.trust.mode == "released"
        return self.forbidden.get(self.position, frozenset()) if released else frozenset()

    @property
    def nbytes(self) -> int:
        """Kept from steps past, for penalty and rollback."""
        return sum(moment.nbytes for moment in (*self.past, self.now))

    def consider(self, found: Candidates) -> Selected | Rollback:
        """Choose the next tokens, or go back."""
        released, position = self.trust.mode == "released", self.position
        log_KCM = extended(self.now.columns_KN, found.weights_KCM, self.trust.scale)
        penalty_KC, places_KC = over_trust(log_KCM, released=released)
        if released and position < EARLY:
            penalty_KC = -found.image_KC
        if self.barred:
            penalty_KC = np.zeros_like(penalty_KC)
        places_K1 = most_frequent(places_KC).astype(np.int32)[:, None]
        history_KM = np.concatenate([self.now.history_KN, places_K1], axis=1)
        place = summary_place(history_KM, self.now.frontier.live_K, self.trust.threshold)
        if place is not None and (target := self._target(place)) is not None:
            return self._go_back(target)
        after, parents_K, picks_K = self.now.frontier.step(
            found.tokens_KC,
            self._gains(found, penalty_KC),
            found.logprobs_KC,
            stop_ids=self.stop_ids,
            last=position + 1 >= self.max_new_tokens,
        )
        tokens_K = found.tokens_KC[parents_K, picks_K]
        pairs = zip(parents_K[after.live_K].tolist(), tokens_K[after.live_K].tolist(), strict=True)
        self.past.append(self.now)
        self.chosen.append(frozenset(pairs))
        self.now = Moment(
            after, log_KCM[parents_K, picks_K], history_KM if released else history_KM[parents_K]
        )
        return Selected(parents_K, picks_K)

    def _gains(self, found: Candidates, penalty_KC: np.ndarray) -> np.ndarray:
        """Log-softmax over a beam's candidates of logits minus penalties (Eq. 6); GONE where forbidden."""
        scored_KC = found.logits_KC.astype(np.float64) - self.trust.penalty * penalty_KC
        for beam, token in self.forbidden.get(self.position, ()):
            scored_KC[beam, found.tokens_KC[beam] == token] = -np.inf
        highest_K1 = scored_KC.max(1, keepdims=True)
        shifted_KC = scored_KC - np.where(np.isneginf(highest_K1), 0.0, highest_K1)
        with np.errstate(divide="ignore", invalid="ignore"):
            gains_KC = shifted_KC - np.log(np.exp(shifted_KC).sum(1, keepdims=True))
        return np.where(np.isneginf(scored_KC), GONE, np.maximum(gains_KC, GONE))

    def _target(self, place: int) -> int | None:
        """The position to go back to for this place of over-trust, or None."""
        for position in (place + 1, place):
            if position >= self.position or self.times.get(position, 0) >= self.trust.candidates:
                continue
            spent = self.forbidden.get(position, frozenset()) | self.chosen[position]
            offered = int(self.past[position].frontier.live_K.sum()) * self.trust.candidates
            if self.trust.mode == "released" or len(spent) < offered:
                return position
        return None

    def _go_back(self, position: int) -> Rollback:
        """Be again what was at `position`, and not choose there what was chosen."""
        self.times[position] = self.times.get(position, 0) + 1
        # Later positions will hold other beams, which may say anything.
        kept = {p: pairs for p, pairs in self.forbidden.items() if p <= position}
        kept[position] = kept.get(position, frozenset()) | self.chosen[position]
        self.forbidden = kept
        self.now = self.past[position]
        del self.past[position:], self.chosen[position:]
        return Rollback(position)
