"""Under which conditions answers were given, and whether two sets of them may be compared.

A method and its baseline must have been asked the same questions about the same images, by the
same weights in the same precision through the same attention kernel, with the same lengths,
batches, seed and software. Only what is done against hallucination may differ. Whatever else
does is named, and there is no comparison.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from sightline.errors import DataError
from sightline.records import Example

_MAY_DIFFER = ("row", "mitigations")


@dataclass(frozen=True, slots=True)
class Conditions:
    """How one row answered one benchmark. Equal but for `row` and `mitigations`, or no comparison."""

    row: str
    mitigations: str
    """The stack as text, `greedy` when there is none."""
    dataset: str
    items: str
    """Hash of everything that was asked, in order; see `hash_items`."""
    asked: int
    model: str
    """`Vlm.identity`: weights, processor, template, adapter."""
    max_new_tokens: int
    short_answer_tokens: int
    batch_size: int
    seed: int
    software: tuple[str, ...]
    """Versions of what computes, such as `torch 2.13.0`."""
    numerics: tuple[str, ...] = ()
    """Device, precision and attention kernel that the workers really had; one, if all is well."""

    @property
    def digest(self) -> str:
        """A name for these conditions that every answer carries; `numerics` come with the answers."""
        told = dataclasses.replace(self, numerics=())
        return _hash(dataclasses.asdict(told))[:16]

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`. Raises DataError for a file of another form."""
        names = {f.name for f in dataclasses.fields(cls)}
        if set(values) != names:
            odd = ", ".join(sorted(set(values) ^ names))
            raise DataError(
                expected=f"conditions with {', '.join(sorted(names))}", got=f"a difference in {odd}"
            )
        lists = {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
        return cls(**{**values, **lists})


def hash_prompt(example: Example) -> str:
    """What a model is shown: image, question, reference, and whether the answer may be long."""
    return _hash([example.image_id, example.sha256, example.question, example.context, example.kind])[:16]


def hash_items(examples: Sequence[Example]) -> str:
    """Ids and prompts in order; truths are no part of it, they are the scorer's business."""
    return _hash([[e.example_id, hash_prompt(e)] for e in examples])


def hash_truths(examples: Sequence[Example]) -> str:
    """What the answers are scored by: true answers, objects, splits."""
    return _hash([[e.example_id, e.answer, e.objects, e.split, e.meta] for e in examples])


def differences(baseline: Conditions, method: Conditions) -> list[str]:
    """One sentence for each condition that is not the same; empty = the comparison is fair."""
    found = []
    for each in dataclasses.fields(Conditions):
        before, after = getattr(baseline, each.name), getattr(method, each.name)
        if each.name not in _MAY_DIFFER and before != after:
            found.append(f"{each.name}: {_told(before)} against {_told(after)}")
    for side in (baseline, method):
        if len(side.numerics) > 1:
            found.append(f"numerics of {side.row}: {_told(side.numerics)} in one set of answers")
    return found


def check_fair(baseline: Conditions, method: Conditions) -> None:
    """Raise DataError, naming every difference, unless the two may be compared."""
    if odd := differences(baseline, method):
        raise DataError(
            expected=f"{method.row} under the conditions of {baseline.row}",
            got="; ".join(odd),
            hint="answer again with the row that is out of date, in the same run",
        )


def _told(value: Any) -> str:
    return " and ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
