"""Visual questions with known answers: KVQA and InfoSeek (exact and relaxed), VQA's soft accuracy.

Exact: equal to one of the accepted answers after normalisation (`short_answer.normalise`: case,
punctuation, articles, number words). Relaxed, after InfoSeek (Chen et al. 2023, section 3): a
number is right inside the accepted range, or when its own range overlaps that by half
(intersection over union); a text is right when it is exact, or holds one accepted answer as
whole words. Soft: min(annotators who agree / 3, 1), VQA v2.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sightline.errors import DataError
from sightline.metrics.bootstrap import Ratio
from sightline.metrics.short_answer import normalise

_NUMBER = re.compile(r"(?<![\w.])-?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?")
_OVERLAP = 0.5
_AGREE = 3.0


@dataclass(frozen=True, slots=True)
class Accepted:
    """What counts as right: any of `texts`, or a number from `low` to `high` (nan = no number)."""

    texts: tuple[str, ...] = ()
    low: float = math.nan
    high: float = math.nan

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> Accepted:
        """From {texts, low, high}, as loaders keep it in `meta["accepted"]`."""
        return cls(tuple(stored["texts"]), stored.get("low", math.nan), stored.get("high", math.nan))

    @property
    def is_range(self) -> bool:
        """Is a number asked for?"""
        return not math.isnan(self.low)


def exact(answer: str, accepted: Accepted) -> bool:
    """Is the answer one of the accepted texts? An empty answer never is."""
    said = normalise(answer)
    return bool(said) and any(said == normalise(text) for text in accepted.texts)


def relaxed(answer: str, accepted: Accepted) -> bool:
    """Exact, or a number in the range, or one accepted text within the answer as whole words."""
    if exact(answer, accepted):
        return True
    if accepted.is_range:
        return _in_range(numbers(answer), accepted)
    said = f" {normalise(answer)} "
    return any(f" {text} " in said for text in map(normalise, accepted.texts) if text)


def numbers(text: str) -> list[float]:
    """The numbers of a text in order; thousands may be parted by commas. "3-5" is 3 and 5."""
    return [
        float(found.replace(",", "")) for found in _NUMBER.findall(re.sub(r"(?<=\d)[-–](?=\d)", " ", text))
    ]


def tally(answers: Sequence[str], accepted: Sequence[Accepted]) -> dict[str, Ratio]:
    """Per-item counts: `exact`, `relaxed`, `empty_rate`. Raises DataError for unequal lengths."""
    _check(len(answers), len(accepted))
    return {
        "exact": Ratio.of([exact(a, t) for a, t in zip(answers, accepted, strict=True)]),
        "relaxed": Ratio.of([relaxed(a, t) for a, t in zip(answers, accepted, strict=True)]),
        "empty_rate": Ratio.of([not normalise(a) for a in answers]),
    }


def soft_tally(answers: Sequence[str], annotators: Sequence[Sequence[str]]) -> dict[str, Ratio]:
    """`soft_accuracy`: each answer is worth min(agreeing annotators / 3, 1)."""
    _check(len(answers), len(annotators))
    agreeing = [
        sum(bool(normalise(a)) and normalise(a) == normalise(t) for t in texts)
        for a, texts in zip(answers, annotators, strict=True)
    ]
    return {"soft_accuracy": Ratio.of([min(n / _AGREE, 1.0) for n in agreeing])}


def infoseek_score(unseen_question: float, unseen_entity: float) -> float:
    """InfoSeek's overall score: the harmonic mean of its two splits; nan when one is undefined."""
    total = unseen_question + unseen_entity
    if math.isnan(total):
        return math.nan
    return 2 * unseen_question * unseen_entity / total if total else 0.0


def _in_range(found: Sequence[float], accepted: Accepted) -> bool:
    if len(found) == 1:
        return accepted.low <= found[0] <= accepted.high
    if len(found) != 2:
        return False
    low, high = sorted(found)
    union = max(high, accepted.high) - min(low, accepted.low)
    shared = min(high, accepted.high) - max(low, accepted.low)
    return shared / union >= _OVERLAP if union else True


def _check(answers: int, truths: int) -> None:
    if answers != truths:
        raise DataError(
            expected="the accepted answers of each answer", got=f"{answers} answers, {truths} truths"
        )
