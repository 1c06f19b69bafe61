"""Pairs of captions: of several sampled for one image, which to prefer over which.

Chosen invents fewer objects than rejected (CHAIR), and must not buy that by saying
less: it names at least as many of the true objects, and both are about as long.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations

from sightline.preference.conditions import Attempt, Finding, Outcome

CONDITION = "caption"


def find(samples: Sequence[Attempt], *, count: int = 1, max_length_ratio: float = 2.0) -> list[Finding]:
    """Up to `count` pairs of different captions, the best first; else one finding that says why not.

    Chosen's recall is not below rejected's. Candidates are ordered by: more inventions
    avoided; more recall gained; lengths (in words) closer. A sample enters one pair at most.
    """
    distinct = list({sample.text.strip(): sample for sample in samples}.values())
    complete = [s for s in distinct if s.text.strip() and s.finished]
    if len(complete) < 2:
        return [_nothing(_why_too_few(samples, distinct))]
    better = [(c, r) for c, r in permutations(complete, 2) if c.verdict.score > r.verdict.score]
    if not better:
        return [_nothing("both_wrong" if complete[0].verdict.invented else "both_right")]
    balanced = [(c, r) for c, r in better if length_ratio(c, r) <= max_length_ratio]
    if not balanced:
        return [_nothing("length")]
    full = [(c, r) for c, r in balanced if c.verdict.recall >= r.verdict.recall]
    found: list[Finding] = []
    used: set[str] = set()
    for chosen, rejected in sorted(full, key=_preference):
        if len(found) < count and not {chosen.text, rejected.text} & used:
            used |= {chosen.text, rejected.text}
            found.append(Finding(CONDITION, "pair", chosen.text, rejected.text))
    return found or [_nothing("recall")]


def length_ratio(one: Attempt, other: Attempt) -> float:
    """How many times longer the longer is, in words."""
    short, long = sorted((max(1, one.verdict.words), max(1, other.verdict.words)))
    return long / short


def _preference(pair: tuple[Attempt, Attempt]) -> tuple[float, float, float, str, str]:
    """Sort key, best first; the texts make the order complete, so it repeats."""
    chosen, rejected = pair
    avoided = chosen.verdict.score - rejected.verdict.score
    gained = chosen.verdict.recall - rejected.verdict.recall
    return (-avoided, -gained, length_ratio(chosen, rejected), chosen.text, rejected.text)


def _why_too_few(samples: Sequence[Attempt], distinct: Sequence[Attempt]) -> Outcome:
    if len(distinct) < 2 <= len(samples):
        return "identical"
    return "unfinished" if any(s.text.strip() for s in distinct) else "empty"


def _nothing(outcome: Outcome) -> Finding:
    return Finding(CONDITION, outcome, "", "")
