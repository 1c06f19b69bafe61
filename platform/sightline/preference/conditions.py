"""Which answers make a preference pair: the conditions of MMed-RAG, as pure functions.

A model answers one question three times: (a) with the image and the retrieved context,
(b) with a wrong image and the context, (c) with the image alone. MMed-RAG (Xia et al.,
ICLR 2025, section 3.3) pairs a right answer with a wrong one:

    cm   (a) right, (b) wrong    the image matters: copying the context is not seeing
    oa1  (a) right, (c) wrong    the context helped: use it
    oa2  (c) right, (a) wrong    the context misled: trust your eyes

The released code of that paper does not contain the mining; this is its text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from sightline.preference.judges import Verdict

Source = Literal["with_context", "wrong_image", "image_alone"]
"""(a), (b) and (c), by what the model was shown."""
SOURCES: tuple[Source, ...] = ("with_context", "wrong_image", "image_alone")
Form = Literal["with_context", "without_context"]
"""Which prompt a pair carries into training."""
PromptForms = Literal["with_context", "without_context", "both"]
Outcome = Literal[
    "pair",
    "both_right",
    "both_wrong",
    "reversed",
    "identical",
    "empty",
    "unfinished",
    "length",
    "recall",
    "not_asked",
]
"""Why there is a pair, or none. "length" and "recall" are said of captions only."""

RULES: Mapping[str, tuple[Source, Source]] = {
    "cm": ("with_context", "wrong_image"),
    "oa1": ("with_context", "image_alone"),
    "oa2": ("image_alone", "with_context"),
}
"""Condition -> (whose answer is chosen, whose is rejected)."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One answer under one source, judged. `finished` is False when it was cut off."""

    text: str
    verdict: Verdict
    finished: bool = True


@dataclass(frozen=True, slots=True)
class Finding:
    """What one rule made of an example. Only `outcome == "pair"` is a pair."""

    condition: str
    outcome: Outcome
    chosen: str
    rejected: str


def apply(rule: str, attempts: Mapping[Source, Attempt]) -> Finding:
    """One rule on the three attempts at one question."""
    chosen, rejected = (attempts[source] for source in RULES[rule])
    return Finding(rule, _outcome(chosen, rejected), chosen.text, rejected.text)


def forms(wanted: PromptForms, *, has_context: bool) -> tuple[Form, ...]:
    """The prompts a pair goes into training with; without a context there is only one."""
    if not has_context or wanted == "without_context":
        return ("without_context",)
    return ("with_context",) if wanted == "with_context" else ("with_context", "without_context")


def _outcome(chosen: Attempt, rejected: Attempt) -> Outcome:
    if not chosen.text.strip() or not rejected.text.strip():
        return "empty"
    if not (chosen.finished and rejected.finished):
        return "unfinished"
    if chosen.text.strip() == rejected.text.strip():
        return "identical"
    if chosen.verdict.right == rejected.verdict.right:
        return "both_right" if chosen.verdict.right else "both_wrong"
    return "pair" if chosen.verdict.right else "reversed"
