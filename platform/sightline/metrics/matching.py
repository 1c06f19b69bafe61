"""Answers put beside the questions they answer, by id: what is missing or strange is named.

A file of predictions may lack ids, repeat them, or hold ids of another benchmark. None of
that is dropped silently: the items are scored with what there is, and `Matched` names the rest
for the report. An id given twice with equal answers is one answer; with different answers it
is none.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sightline.errors import DataError

_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Matched:
    """Answers in the order of the items; `places` are the items that have one.

    `missing`, `doubled` (with different answers) and `foreign` are ids; `empty` and
    `other_script` are ids whose answer is blank, or mostly in letters that are not Latin.
    """

    answers: tuple[str, ...]
    places: tuple[int, ...]
    missing: tuple[str, ...]
    doubled: tuple[str, ...]
    foreign: tuple[str, ...]
    empty: tuple[str, ...]
    other_script: tuple[str, ...]

    @property
    def complete(self) -> bool:
        """Does every item have one answer, and is there nothing else?"""
        return not (self.missing or self.doubled or self.foreign)

    def notes(self) -> list[str]:
        """A sentence for each kind of trouble, with its number and the first ids."""
        kinds = {
            "without an answer": self.missing,
            "with several different answers, left out": self.doubled,
            "that are no question of this benchmark": self.foreign,
            "with an empty answer": self.empty,
            "answered in another script than Latin": self.other_script,
        }
        return [f"{len(ids)} {_ids(ids)} {what}: {_first(ids)}" for what, ids in kinds.items() if ids]


def match(ids: Sequence[str], predictions: Iterable[tuple[str, str]]) -> Matched:
    """Predictions, as (id, answer), put beside the items of a benchmark.

    Raises DataError when the benchmark repeats an id, or no prediction fits: then it is
    another benchmark's file.
    """
    if len(set(ids)) < len(ids):
        raise DataError(expected="each question of the benchmark once", got="an id that comes twice")
    known, said, doubled = set(ids), {}, {}
    foreign: dict[str, None] = {}
    for key, answer in predictions:
        if key not in known:
            foreign[key] = None
        elif key in said and said[key] != answer:
            doubled[key] = None
        else:
            said[key] = answer
    places = tuple(i for i, key in enumerate(ids) if key in said and key not in doubled)
    if not said and foreign:
        raise DataError(
            expected=f"predictions for ids such as {ids[0]!r}" if ids else "a benchmark with questions",
            got=f"only other ids, such as {next(iter(foreign))!r}",
            hint="check that the file belongs to this benchmark",
        )
    kept = [ids[i] for i in places]
    return Matched(
        answers=tuple(said[key] for key in kept),
        places=places,
        missing=tuple(key for key in ids if key not in said),
        doubled=tuple(doubled),
        foreign=tuple(foreign),
        empty=tuple(key for key in kept if not said[key].strip()),
        other_script=tuple(key for key in kept if is_other_script(said[key])),
    )


def is_other_script(text: str) -> bool:
    """Are most letters of the text not Latin? English word lists find nothing there."""
    letters = [c for c in text if c.isalpha()]
    latin = sum("LATIN" in unicodedata.name(c, "") for c in letters)
    return bool(letters) and latin * 2 < len(letters)


def _ids(ids: Sequence[str]) -> str:
    return "id" if len(ids) == 1 else "ids"


def _first(ids: Sequence[str]) -> str:
    return ", ".join(ids[:_SHOWN]) + (", ..." if len(ids) > _SHOWN else "")
