"""POPE's six released readings of a yes/no answer, bug for bug.

Published POPE numbers differ in who read the answers: six code bases disagree on ordinary
sentences ("There is a dog.", "NO", "I don't know"). Each rule below repeats one of them;
what they do with an answer they cannot read differs too, and stands in `unparsed`.

    official    AoiDragon/POPE `evaluate.py`: first sentence, no if No/not/no is a word, else yes
    opera       shikiw/OPERA, LALBJ/PAI: all sentences, also NO and words that end in n't, else yes
    spin        YUECHE77/SPIN `pope_ans.py`: as opera; without Yes/yes/YES the item is dropped
    vcd         DAMO-NLP-SG/VCD `eval_pope.py`: substring of the true label, so "know" is a no
    lmms-eval   EvolvingLMMs-Lab/lmms-eval `tasks/pope`: the whole answer must be yes or no
    vlmevalkit  open-compass/VLMEvalKit `YOrN_Extraction`: one of yes and no among the words

lmms-eval's released yes ratio counts labels, not answers (always 0.5); ours counts answers.
Knows nothing of scores; `yes_no` counts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from sightline.errors import ConfigError

Verdict = Literal["yes", "no", "unparsed"]
Unparsed = Literal["wrong", "dropped", "no_miss"]
"""What an unreadable answer costs. wrong: accuracy, and recall where the truth is yes; dropped:
nothing, the item leaves every denominator; no_miss: accuracy, but it is no missed yes."""

_NEGATIVE = frozenset({"No", "not", "no", "NO"})
_POSITIVE = frozenset({"Yes", "yes", "YES"})
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_DIGITS_COMMA = re.compile(r"\d,\d")
_PERIOD = re.compile(r"\.(?!\d)")
_MOST_PERIODS = 32
"""VLMEvalKit passes re.UNICODE (32) where `sub` takes its count, so a 33rd period stays."""


@dataclass(frozen=True, slots=True)
class Parser:
    """How one code base reads an answer. `read(answer, truth)`; only `needs_truth` looks at the truth."""

    read: Callable[[str, bool], Verdict]
    unparsed: Unparsed = "wrong"
    needs_truth: bool = False

    def __call__(self, answer: str, truth: bool | None = None) -> Verdict:
        """One answer read. Raises ConfigError when the rule needs the truth and none is given."""
        if truth is None and self.needs_truth:
            raise ConfigError(
                expected="the true answer, which this parser reads the answer by",
                got="none",
                hint="choose another parser where there is no truth",
            )
        return self.read(answer, bool(truth))


def _official(answer: str, _: bool) -> Verdict:
    words = answer.split(".")[0].replace(",", "").split(" ")
    return "no" if "No" in words or "not" in words or "no" in words else "yes"


def _opera(answer: str, _: bool) -> Verdict:
    return "no" if _denies(_words(answer)) else "yes"


def _spin(answer: str, _: bool) -> Verdict:
    words = _words(answer)
    if _denies(words):
        return "no"
    return "yes" if _POSITIVE.intersection(words) else "unparsed"


def _vcd(answer: str, truth: bool) -> Verdict:
    said = answer.lower().strip()
    if truth:
        return "yes" if "yes" in said else "no"
    return "no" if "no" in said else "yes"


def _lmms_eval(answer: str, _: bool) -> Verdict:
    said = answer.lower().strip()
    if said == "yes":
        return "yes"
    return "no" if said == "no" else "unparsed"


def _vlmevalkit(answer: str, _: bool) -> Verdict:
    words = _without_punctuation(answer.lower()).split()
    if ("yes" in words) == ("no" in words):
        return "unparsed"
    return "yes" if "yes" in words else "no"


def _words(answer: str) -> list[str]:
    return answer.replace(".", "").replace(",", "").split(" ")


def _denies(words: list[str]) -> bool:
    return any(word in _NEGATIVE or word.endswith("n't") for word in words)


def _without_punctuation(text: str) -> str:
    """A sign that stands beside a space anywhere in the text vanishes; any other becomes a space."""
    out, digits = text, bool(_DIGITS_COMMA.search(text))
    for sign in _PUNCTUATION:
        beside_space = sign + " " in text or " " + sign in text
        out = out.replace(sign, "" if beside_space or digits else " ")
    return _PERIOD.sub("", out, count=_MOST_PERIODS)


RELEASED: Mapping[str, Parser] = MappingProxyType(
    {
        "official": Parser(_official),
        "opera": Parser(_opera),
        "spin": Parser(_spin, unparsed="dropped"),
        "vcd": Parser(_vcd, needs_truth=True),
        "lmms-eval": Parser(_lmms_eval, unparsed="no_miss"),
        "vlmevalkit": Parser(_vlmevalkit),
    }
)
"""The six by name. VLMEvalKit's Unknown is wrong in accuracy and a No in F1: the rule `wrong`."""
