"""What a judge of the user's adds to a benchmark: MMHal's ratings, and claims about captions.

The judge is asked when answers are scored, once for each prompt; what it said is kept, so that
scoring again asks nothing. A reply that cannot be read is counted by its score and named in the
report. Data under a use agreement is never shown to it.
"""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass, field

from sightline.data.licences import is_restricted
from sightline.evaluation.answers import NAMED
from sightline.evaluation.predictions import Prediction
from sightline.metrics import claims, mmhal
from sightline.metrics.bootstrap import Ratio
from sightline.metrics.judging import Judge, ask


@dataclass(frozen=True)
class Judged:
    """A judge by name, with what it has said so far (`data.judgements`)."""

    name: str
    judge: Judge
    cache: MutableMapping[str, str]
    unread: dict[str, set[str]] = field(default_factory=dict)
    """Scorer -> ids of examples with a reply that it could not read, in any row."""

    def ratings(self, rows: Sequence[Prediction]) -> dict[str, Ratio]:
        """MMHal's `rating` (0 to 6), `hallucination_rate` (below 3) and `unread_replies`, as released:
        a reply without exactly one rating counts 0, and hallucinated."""
        reviews = self._reviews(rows)
        self._name(
            "MMHal", [row for row, said in zip(rows, reviews, strict=True) if mmhal.rating(said) is None]
        )
        counts = mmhal.tally(reviews)
        return {
            "rating": counts["score"],
            "hallucination_rate": counts["hallucination_rate"],
            "unread_replies": counts["unparsed_rate"],
        }

    def is_hallucinated(self, row: Prediction) -> bool:
        """Is an answer to MMHal rated below 3, or without a rating?"""
        [said] = self._reviews([row])
        return (mmhal.rating(said) or 0) < mmhal.HALLUCINATED_BELOW

    def claims(self, rows: Sequence[Prediction]) -> dict[str, Ratio]:
        """`hallucination_rate` of captions, `claim_error_rate`, `unread_replies` and `claims` a caption,
        judged by the reference captions. Nothing where an example has none, or is restricted."""
        if any(is_restricted(row.example) or not row.example.meta.get("references") for row in rows):
            return {}
        judged = claims.judge_claims(
            [row.answer for row in rows],
            [row.example.meta["references"] for row in rows],
            self.judge,
            name=self.name,
            cache=self.cache,
        )
        self._name(
            "claims", [row for row, found in zip(rows, judged, strict=True) if None in found.hallucinated]
        )
        counts = claims.tally(judged)
        return {
            "hallucination_rate": counts["hallucination_rate"],
            "claim_error_rate": counts["claim_error_rate"],
            "unread_replies": counts["unparsed_rate"],
            "claims": counts["claims"],
        }

    def notes(self) -> list[str]:
        """One line for each scorer that asked: who judged, and which replies could not be read."""
        return [f"{scorer}: judged by {self.name}{_named(ids)}" for scorer, ids in self.unread.items()]

    def _reviews(self, rows: Sequence[Prediction]) -> list[str]:
        prompts = [
            mmhal.prompt(
                row.example.meta.get("contents", ()), row.example.question, row.example.answer, row.answer
            )
            for row in rows
        ]
        return ask(prompts, self.judge, name=self.name, cache=self.cache)

    def _name(self, scorer: str, rows: Sequence[Prediction]) -> None:
        self.unread.setdefault(scorer, set()).update(row.example.example_id for row in rows)


def _named(ids: set[str]) -> str:
    if not ids:
        return ""
    listed = ", ".join(sorted(ids)[:NAMED]) + (", …" if len(ids) > NAMED else "")
    return f"; replies about {len(ids)} questions could not be read ({listed})"
