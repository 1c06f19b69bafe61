"""Answers on disk, as JSONL with provenance, and what becomes of them when they are read again.

One JSON object a line: the example's id and the hash of what was shown, the answer, what it
cost, and who gave it. Neither questions nor truths are in it: they stay in the benchmark, which
is why scoring needs the benchmark again (and nothing else), and why data under a use agreement
never reaches a run's folder. Beside `x.jsonl` lies `x.json`, the conditions.

Reading drops nothing silently: an id that is missing, doubled or foreign, an answer to another
prompt or under other conditions, a line that is no JSON, a row that failed: each is counted and
named in the `Account`.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sightline.errors import DataError
from sightline.evaluation.fairness import Conditions, hash_prompt
from sightline.evaluation.predictions import Prediction
from sightline.evaluation.run_folder import Files, plain, write_json
from sightline.metrics.script import is_other_script
from sightline.records import Example

NAMED = 20
"""Most ids that an account names of each kind of fault; all are counted."""


@dataclass(frozen=True, slots=True)
class Answered:
    """A model's answer to one example, and what it cost.

    An answer that an equal prompt had got before costs nothing. `numerics` are device, precision
    and attention kernel of the worker.
    """

    example_id: str
    prompt: str
    answer: str
    finished: bool = True
    error: str = ""
    tokens: int = 0
    seconds: float = 0.0
    passes: float = 0.0
    peak_mib: float = math.nan
    numerics: str = ""


@dataclass(frozen=True, slots=True)
class Account:
    """What was asked and what came back. The lists name at most `NAMED` ids; the counts are whole."""

    asked: int
    scored: int
    counts: Mapping[str, int]
    """Kind of fault -> how many; kinds that did not occur are absent."""
    named: Mapping[str, tuple[str, ...]]
    """Kind of fault -> ids, or lines that could not be read."""

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


@dataclass(frozen=True, slots=True)
class Matched:
    """A file of answers laid beside the examples: one prediction an example, failures with `error`."""

    conditions: Conditions
    predictions: tuple[Prediction, ...]
    costs: tuple[Answered, ...]
    """The answers that were read, for what they cost."""
    account: Account


def write_answers(files: Files, name: str, conditions: Conditions, answers: Sequence[Answered]) -> None:
    """Write `name`.json (conditions) and `name`.jsonl, each whole or not at all."""
    provenance = {
        "row": conditions.row,
        "mitigations": conditions.mitigations,
        "model": conditions.model,
        "seed": conditions.seed,
        "software": " ".join(conditions.software),
        "conditions": conditions.digest,
    }
    lines = [json.dumps(plain(dataclasses.asdict(a) | provenance), ensure_ascii=False) for a in answers]
    write_json(files, f"{name}.json", conditions.to_json())
    files.write_bytes(f"{name}.jsonl", "".join(f"{line}\n" for line in lines).encode())


def match_answers(
    text: str, conditions: Conditions, examples: Sequence[Example], *, where: str = "the answers"
) -> Matched:
    """Lay the lines of a JSONL file beside the examples they answer.

    An example without a usable answer gets a prediction whose `error` says why; scores leave it
    out and the account counts it. Raises DataError when no line belongs to any example.
    """
    faults = _Faults()
    by_id = _read_lines(text, conditions, {e.example_id: hash_prompt(e) for e in examples}, faults)
    if examples and not by_id:
        first = next(iter(faults.reasons.values()), "nothing in it")
        raise DataError(expected=f"answers to this benchmark in {where}", got=first)
    predictions = [_prediction(example, by_id.get(example.example_id), faults) for example in examples]
    read = tuple(answers[0] for answers in by_id.values())
    account = Account(
        asked=len(examples),
        scored=sum(not p.error for p in predictions),
        counts={kind: len(names) for kind, names in faults.by_kind.items()},
        named={kind: tuple(names[:NAMED]) for kind, names in faults.by_kind.items()},
    )
    numerics = tuple(sorted({a.numerics for a in read if not a.error}))
    return Matched(dataclasses.replace(conditions, numerics=numerics), tuple(predictions), read, account)


@dataclass
class _Faults:
    by_kind: dict[str, list[str]] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)

    def add(self, kind: str, name: str, reason: str = "") -> None:
        self.by_kind.setdefault(kind, []).append(name)
        self.reasons.setdefault(name, reason or kind)


def _read_lines(
    text: str, conditions: Conditions, prompts: Mapping[str, str], faults: _Faults
) -> dict[str, list[Answered]]:
    """Every usable answer by id, in the file's order."""
    names = {f.name for f in dataclasses.fields(Answered)}
    by_id: dict[str, list[Answered]] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        row = _object(line)
        if not {"example_id", "prompt", "answer"} <= row.keys():
            faults.add("unreadable", f"line {number}", f"line {number} without id, prompt and answer")
            continue
        answer = Answered(**{name: row[name] for name in names & row.keys() if row[name] is not None})
        if answer.example_id not in prompts:
            faults.add("foreign", answer.example_id, f"an unknown id, {answer.example_id!r}")
        elif answer.prompt != prompts[answer.example_id]:
            faults.add("other prompt", answer.example_id)
        elif row.get("conditions") != conditions.digest:
            faults.add("other conditions", answer.example_id)
        else:
            by_id.setdefault(answer.example_id, []).append(answer)
    return by_id


def _object(line: str) -> dict[str, Any]:
    """The line's object; an empty one when it is no JSON, or no object."""
    try:
        value = json.loads(line)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _prediction(example: Example, answers: list[Answered] | None, faults: _Faults) -> Prediction:
    """The example's answer; without a usable one, a prediction that says what is wrong."""
    name = example.example_id
    if answers is None:
        if name not in faults.reasons:
            faults.add("missing", name)
        return Prediction(example, "", error=f"no usable answer: {faults.reasons[name]}")
    if len(answers) > 1:
        faults.add("doubled", name)
        if len({a.answer for a in answers}) > 1:
            return Prediction(example, "", error="answered more than once, and differently")
    answer = answers[0]
    if answer.error:
        faults.add("failed", name)
        return Prediction(example, "", error=answer.error)
    if not answer.answer.strip():
        faults.add("empty", name)
    if is_other_script(answer.answer):
        faults.add("other script", name)
    if not answer.finished:
        faults.add("cut off", name)
    return Prediction(example, answer.answer, answer.finished)
