"""Yes/no questions in POPE's manner: read the answers, then count.

Two parsers. `official` is POPE's own (AoiDragon/POPE, `evaluate.py`): it takes the
first sentence, and everything without "No", "no" or "not" in it is a yes, so "NO",
"isn't" and an empty answer count as yes. `strict` reads what people would read and
says `unparsed` where they would shrug. The scores differ; a report names the parser.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Literal

import numpy as np

from sightline.errors import ConfigError, DataError
from sightline.metrics.bootstrap import Ratio

Verdict = Literal["yes", "no", "unparsed"]

# Not "yes and no", "yes/no", "no idea".
_LEADING = re.compile(r"^\W*(yes|no)\b(?!\s*(?:,|/|or|and)\s*(?!\1\b)(?:yes|no)\b)(?!\s+(?:idea|clue)\b)")
_THERE_IS = re.compile(r"^\W*there(?:\s+(?:is|are)|['’]s)\b(\s+(?:no|not)\b)?([^.!?\n]*)")
_THERE_IS_NOT = re.compile(r"^\W*there\s+(?:isn|aren)['’]t\b")
_NEGATION = re.compile(r"\b(?:no|not)\b|n['’]t\b")


def parse_official(answer: str) -> Verdict:
    """POPE's released rule, bug for bug: never unparsed, case-sensitive, splits on spaces only."""
    first_sentence = answer.split(".")[0] if "." in answer else answer
    words = first_sentence.replace(",", "").split(" ")
    return "no" if "No" in words or "not" in words or "no" in words else "yes"


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


PARSERS: Mapping[str, Callable[[str], Verdict]] = MappingProxyType(
    {"official": parse_official, "strict": parse_strict}
)
"""Parsers by name. A report must name the one it used."""


def parse(answer: str, parser: str) -> Verdict:
    """One answer read by the named parser. Raises ConfigError for an unknown name."""
    if parser not in PARSERS:
        raise ConfigError(expected=f"a yes/no parser among {sorted(PARSERS)}", got=repr(parser))
    return PARSERS[parser](answer)


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
    but is no false yes. `false_yes_rate` is the share of no-questions answered yes
    (the false positive rate); `yes_ratio` is of answers, not of labels.
    """
    if len(answers) != len(truths):
        raise DataError(
            expected="one true answer for each answer", got=f"{len(answers)} answers, {len(truths)} truths"
        )
    verdicts = [parse(answer, parser) for answer in answers]
    said_yes_N = np.asarray([v == "yes" for v in verdicts], dtype=bool)
    said_no_N = np.asarray([v == "no" for v in verdicts], dtype=bool)
    is_yes_N = np.asarray([read_truth(t) for t in truths], dtype=bool)

    hit_N, false_yes_N, missed_N = said_yes_N & is_yes_N, said_yes_N & ~is_yes_N, ~said_yes_N & is_yes_N
    return {
        "accuracy": Ratio.of(hit_N | (said_no_N & ~is_yes_N)),
        "precision": Ratio.of(hit_N, said_yes_N),
        "recall": Ratio.of(hit_N, is_yes_N),
        "f1": Ratio.of(2.0 * hit_N, 2.0 * hit_N + false_yes_N + missed_N),
        "yes_ratio": Ratio.of(said_yes_N),
        "false_yes_rate": Ratio.of(false_yes_N, ~is_yes_N),
        "unparsed_rate": Ratio.of(~said_yes_N & ~said_no_N),
    }
