"""The records that travel between the parts: what is asked, answered and preferred.

Plain frozen dataclasses of strings and numbers. They know nothing about pixels,
tensors, Ray or files; `to_row` / `from_row` turn them into the flat columns that
parquet and Ray Data carry (nested values become JSON strings).
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any, Literal, Self

Kind = Literal["yes_no", "color", "count", "relation", "caption", "open"]
"""What form the answer takes, hence which judge can compare it with the truth."""


class _Row:
    """Flat columns and back. Tuples and dicts are stored as JSON text."""

    def to_row(self) -> dict[str, Any]:
        row = {}
        for f in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, f.name)
            row[f.name] = json.dumps(value, sort_keys=True) if isinstance(value, tuple | dict) else value
        return row

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> Self:
        values = {}
        for f in dataclasses.fields(cls):  # type: ignore[arg-type]
            if f.name not in row:
                continue
            value = row[f.name]
            if isinstance(value, str) and str(f.type).startswith(("tuple", "dict")):
                value = json.loads(value)
            if isinstance(value, list):
                value = tuple(value)
            values[f.name] = value
        return cls(**values)


@dataclass(frozen=True, slots=True)
class Example(_Row):
    """One question about one image, with what is known to be true.

    `answer` is the true answer ("" when only `objects` is known, as for captions);
    `objects` are the node words truly in the image; `context` is a text shown to the
    model as `Reference:` ("" = none).
    """

    example_id: str
    image_id: str
    image_uri: str
    question: str
    kind: Kind
    answer: str = ""
    objects: tuple[str, ...] = ()
    context: str = ""
    sha256: str = ""
    """Hash of the image file's bytes; "" when it has not been computed."""
    split: str = ""
    source: str = ""
    meta: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model said. `logprob` is the sum of natural log-probabilities of its tokens."""

    text: str
    token_ids: tuple[int, ...] = ()
    logprob: float = float("nan")
    finished: bool = True
    """False when the answer was cut off by `max_new_tokens`."""


@dataclass(frozen=True, slots=True)
class PreferencePair(_Row):
    """For one prompt, an answer to prefer over another, with where both came from.

    `condition` says which mining rule made the pair: "cm" (cross-modal), "oa1" /
    "oa2" (overall alignment), "caption", or the name a dataset brings along.
    """

    pair_id: str
    example_id: str
    image_id: str
    image_uri: str
    question: str
    context: str
    chosen: str
    rejected: str
    condition: str
    weight: float = 1.0
    sha256: str = ""
    provenance: dict[str, Any] = field(default_factory=dict)
    """Raw answers, judge verdicts, seeds, model revision, wrong image id, ..."""
