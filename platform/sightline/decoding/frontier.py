"""The beams of one prompt, and which of their continuations go on: transformers' rule.

`step` does for one prompt what `GenerationMixin._beam_search` (transformers 5.19, with
`early_stopping=False`) does for a batch, but takes the continuations' scores as they come:
it knows neither models nor where a score is from. Frozen: a step returns new beams, so a
caller may keep old ones and go back to them.

Names: K beams, C candidate tokens of each, N tokens of the answer so far.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Self

import numpy as np

GONE = -1.0e9
"""What a continuation that cannot go on adds to its score."""


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """An answer that has ended."""

    score: float
    """Its beam's score over (its number of tokens) ** length_penalty."""
    token_ids: tuple[int, ...]
    logprob: float


@dataclass(frozen=True, slots=True, eq=False)
class Frontier:
    """The live beams of one prompt and the best answers that have ended."""

    tokens_KN: np.ndarray
    """int64."""
    scores_K: np.ndarray
    """float64, best first: sums of the scores by which tokens were chosen."""
    logprobs_K: np.ndarray
    """float64: sums of the model's own natural log-probabilities."""
    ended: tuple[Hypothesis, ...] = ()
    """At most K, best first."""
    closed: bool = False
    """Whether no live beam can overtake the ended answers any more."""

    @classmethod
    def start(cls, num_beams: int) -> Self:
        """Beams before the first token. They are equal, so all but one are out of the running."""
        scores_K = np.full(num_beams, GONE)
        scores_K[0] = 0.0
        return cls(np.empty((num_beams, 0), dtype=np.int64), scores_K, np.zeros(num_beams))

    @property
    def length(self) -> int:
        """N."""
        return self.tokens_KN.shape[1]

    @property
    def live_K(self) -> np.ndarray:
        """Which beams stand for an answer at all; the others fill their places."""
        return self.scores_K > GONE / 2

    def step(
        self,
        tokens_KC: np.ndarray,
        gains_KC: np.ndarray,
        logprobs_KC: np.ndarray,
        *,
        stop_ids: Collection[int],
        last: bool,
        length_penalty: float = 1.0,
    ) -> tuple[Self, np.ndarray, np.ndarray]:
        """The beams after one more token, and of each its beam before and its candidate's place.

        `gains_KC` are added to the beams' scores; `logprobs_KC` are only kept account of.
        `last`: no token may follow this one, so every continuation ends here.
        """
        beams, places = tokens_KC.shape
        totals = (self.scores_K[:, None] + gains_KC).ravel()
        # Enough that as many beams go on even if the best of each are stop tokens.
        order = np.argsort(-totals, kind="stable")[: max(2, 1 + len(stop_ids)) * beams]
        parents, picks = order // places, order % places
        tokens, logprobs = tokens_KC[parents, picks], (self.logprobs_K[:, None] + logprobs_KC).ravel()[order]
        ends = np.isin(tokens, list(stop_ids)) | last
        answers_ON = np.concatenate([self.tokens_KN[parents], tokens[:, None]], axis=1)

        ended = list(self.ended)
        if not self.closed:
            # Only among the best K, as a stop token further down was not the beams' choice.
            for o in np.flatnonzero(ends[:beams] & (totals[order[:beams]] > GONE / 2)):
                score = float(totals[order[o]]) / (self.length + 1) ** length_penalty
                ended.append(Hypothesis(score, tuple(answers_ON[o].tolist()), float(logprobs[o])))
        ended.sort(key=lambda hypothesis: -hypothesis.score)
        ended = ended[:beams]

        running = totals[order] + np.where(ends, GONE, 0.0)
        best = np.argsort(-running, kind="stable")[:beams]
        hope = float(running[best[0]]) / (self.length + 1) ** length_penalty
        worst = ended[-1].score if len(ended) == beams else GONE / 2
        closed = self.closed or last or hope <= worst
        after = type(self)(answers_ON[best], running[best], logprobs[best], tuple(ended), closed)
        return after, parents[best], picks[best]
