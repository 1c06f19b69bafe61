"""Short answers compared with the truth: colours, counts, places.

An answer is right when it equals the truth after normalisation (case, punctuation,
articles, number words). A sentence ("The couch is red.") is right when the truth is
the only one of the benchmark's answers that it holds.
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


def holds_only(answer: str, truth: str, vocabulary: frozenset[str]) -> bool:
    """Is `truth` the one entry of `vocabulary` (normalised answers) found in `answer`, as whole words?"""
    padded = f" {normalise(answer)} "
    found = {entry for entry in vocabulary if entry and f" {entry} " in padded}
    # "left of" holds "left": an entry inside another found one does not count.
    outer = {e for e in found if not any(e != other and f" {e} " in f" {other} " for other in found)}
    return outer == {normalise(truth)}


def tally(answers: Sequence[str], truths: Sequence[str]) -> dict[str, Ratio]:
    """Per-item counts: `accuracy`, and `empty_rate`, the share of answers without a word."""
    if len(answers) != len(truths):
        raise DataError(
            expected="one true answer for each answer", got=f"{len(answers)} answers, {len(truths)} truths"
        )
    vocabulary = frozenset(normalise(t) for t in truths)
    return {
        "accuracy": Ratio.of(
            [equal(a, t) or holds_only(a, t, vocabulary) for a, t in zip(answers, truths, strict=True)]
        ),
        "empty_rate": Ratio.of([not normalise(a) for a in answers]),
    }
