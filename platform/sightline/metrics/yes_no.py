"""Yes/no questions in POPE's manner: read the answers, then count.

Seven parsers: the six released ones (`metrics.pope`), which disagree with each other, and
`strict`, which reads what people would read and says `unparsed` where they would shrug.
The scores differ; a report names the parser, and `disagreements` says how much hangs on it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from sightline.errors import ConfigError, DataError
from sightline.metrics.bootstrap import Ratio
from sightline.metrics.pope import RELEASED, Parser, Verdict

# Not "yes and no", "yes/no", "no idea".
_LEADING = re.compile(r"^\W*(yes|no)\b(?!\s*(?:,|/|or|and)\s*(?!\1\b)(?:yes|no)\b)(?!\s+(?:idea|clue)\b)")
_THERE_IS = re.compile(r"^\W*there(?:\s+(?:is|are)|['’]s)\b(\s+(?:no|not)\b)?([^.!?\n]*)")
_THERE_IS_NOT = re.compile(r"^\W*there\s+(?:isn|aren)['’]t\b")
_NEGATION = re.compile(r"\b(?:no|not)\b|n['’]t\b")


def parse_strict(answer: str) -> Verdict:
    """An answer that opens with yes or no, or with "there is (no)"; the rest is unparsed.

    So is "There is a cat but no dog": which half answers, the question alone knows.
    """
    text = answer.strip().lower()
    if leading := _LEADING.match(text):
        return "yes" if leading.group(1) == "yes" else "no"
    if _THERE_IS_NOT.match(text):
        return "no"
    there_is = _THERE_IS.match(text)
    if there_is and there_is.group(1):
        return "no"
    if there_is and not _NEGATION.search(there_is.group(2)):
        return "yes"
    return "unparsed"


PARSERS: Mapping[str, Parser] = MappingProxyType(
    {**RELEASED, "strict": Parser(lambda answer, _: parse_strict(answer))}
)
"""Parsers by name. A report must name the one it used."""


def parse(answer: str, parser: str, truth: bool | None = None) -> Verdict:
    """One answer read by the named parser; `truth` (is yes right?) matters to `vcd` alone.

    Raises ConfigError for an unknown name, or where `vcd` is not told the truth.
    """
    return _parser(parser)(answer, truth)


def _parser(name: str) -> Parser:
    if name not in PARSERS:
        raise ConfigError(expected=f"a yes/no parser among {sorted(PARSERS)}", got=repr(name))
    return PARSERS[name]


def read_truth(truth: str) -> bool:
    """Is the true answer yes? Raises DataError when a label is neither yes nor no."""
    verdict = parse_strict(truth)
    if verdict == "unparsed":
        raise DataError(
            expected="a yes/no question whose true answer is yes or no",
            got=repr(truth),
            hint="check the `answer` column of the benchmark",
        )
    return verdict == "yes"


def tally(answers: Sequence[str], truths: Sequence[str], *, parser: str) -> dict[str, Ratio]:
    """Per-item counts of every yes/no score; the positive class is yes.

    An unparsed answer is wrong, neither yes nor no: it lowers accuracy and recall,
    but is no false yes (`spin` drops it from every score, `lmms-eval` from recall).
    `false_yes_rate` is the share of no-questions answered yes (the false positive rate);
    `yes_ratio` is of answers, not of labels.
    """
    is_yes_N = _truths(answers, truths)
    rule = _parser(parser)
    verdicts = [rule(answer, bool(truth)) for answer, truth in zip(answers, is_yes_N, strict=True)]
    said_yes_N = np.asarray([v == "yes" for v in verdicts], dtype=bool)
    said_no_N = np.asarray([v == "no" for v in verdicts], dtype=bool)
    unparsed_N = ~said_yes_N & ~said_no_N

    kept_N = ~unparsed_N if rule.unparsed == "dropped" else np.ones_like(unparsed_N)
    hit_N, false_yes_N, missed_N = said_yes_N & is_yes_N, said_yes_N & ~is_yes_N, ~said_yes_N & is_yes_N
    if rule.unparsed != "wrong":
        missed_N &= said_no_N
    return {
        "accuracy": Ratio.of(hit_N | (said_no_N & ~is_yes_N), kept_N),
        "precision": Ratio.of(hit_N, said_yes_N),
        "recall": Ratio.of(hit_N, hit_N | missed_N),
        "f1": Ratio.of(2.0 * hit_N, 2.0 * hit_N + false_yes_N + missed_N),
        "yes_ratio": Ratio.of(said_yes_N, kept_N),
        "false_yes_rate": Ratio.of(false_yes_N, ~is_yes_N & kept_N),
        "unparsed_rate": Ratio.of(unparsed_N),
    }


@dataclass(frozen=True, slots=True)
class Disagreement:
    """What the parsers made of the same answers. `counts[parser][verdict]` is a number of answers;
    `items` are the places of the answers that not all read alike."""

    counts: dict[str, dict[Verdict, int]]
    items: tuple[int, ...]
    n: int


def disagreements(
    answers: Sequence[str], truths: Sequence[str], parsers: Sequence[str] = tuple(PARSERS)
) -> Disagreement:
    """The answers on which the named parsers differ (all of them by default)."""
    is_yes_N = _truths(answers, truths)
    read = {
        name: [_parser(name)(a, bool(t)) for a, t in zip(answers, is_yes_N, strict=True)] for name in parsers
    }
    verdicts: tuple[Verdict, ...] = ("yes", "no", "unparsed")
    return Disagreement(
        counts={name: {v: said.count(v) for v in verdicts} for name, said in read.items()},
        items=tuple(i for i in range(len(answers)) if len({said[i] for said in read.values()}) > 1),
        n=len(answers),
    )


def _truths(answers: Sequence[str], truths: Sequence[str]) -> np.ndarray:
    """(N,) bool: is yes right? Raises DataError for unequal lengths or a label that is neither."""
    if len(answers) != len(truths):
        raise DataError(
            expected="one true answer for each answer", got=f"{len(answers)} answers, {len(truths)} truths"
        )
    return np.asarray([read_truth(t) for t in truths], dtype=bool)
