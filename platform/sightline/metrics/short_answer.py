"""Short answers compared with the truth: colours, counts, places.

An answer is right when it equals the truth after normalisation (case, punctuation,
articles, number words). "The couch is red." does not equal "Red.": a looser reading
needs to know the rival answers, and belongs to a benchmark that lists them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from sightline.errors import DataError
from sightline.metrics.bootstrap import Ratio

# fmt: off
_NUMBERS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
)
# fmt: on
_AS_DIGITS = {word: str(i) for i, word in enumerate(_NUMBERS)} | {"none": "0", "gray": "grey"}
_ARTICLES = frozenset({"a", "an", "the"})


def normalise(answer: str) -> str:
    """Lower case, words only, no articles, number words as digits ("Two." -> "2")."""
    tokens = re.findall(r"[^\W_]+", answer.lower())
    return " ".join(_AS_DIGITS.get(t, t) for t in tokens if t not in _ARTICLES)


def equal(answer: str, truth: str) -> bool:
    """Do both say the same after normalisation?"""
    return normalise(answer) == normalise(truth)


def tally(answers: Sequence[str], truths: Sequence[str]) -> dict[str, Ratio]:
    """Per-item counts: `accuracy`, and `empty_rate`, the share of answers without a word."""
    if len(answers) != len(truths):
        raise DataError(
            expected="one true answer for each answer", got=f"{len(answers)} answers, {len(truths)} truths"
        )
    return {
        "accuracy": Ratio.of([equal(a, t) for a, t in zip(answers, truths, strict=True)]),
        "empty_rate": Ratio.of([not normalise(a) for a in answers]),
    }
