"""Judges: is an answer right, given what is known about the image?

A judge is a function `(answer, example) -> Verdict`. Named ones live in a registry; any
other is named `module:function`. Scores compare answers to the same question, and the
higher is better: 1 or 0 for short answers, minus the invented mentions for captions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from sightline.config.functions import load_function
from sightline.errors import ConfigError, DataError
from sightline.metrics import short_answer, yes_no
from sightline.metrics.objects import Lexicon, check_caption
from sightline.records import Example


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a judge says. `invented` and `recall` (share of true objects named) are a caption's."""

    right: bool
    score: float
    invented: tuple[str, ...] = ()
    recall: float = 0.0
    words: int = 0


Judge = Callable[[str, Example], Verdict]


def exact(answer: str, example: Example) -> Verdict:
    """Right when equal to the truth, character by character, but for spaces around."""
    return _short(answer.strip() == example.answer.strip())


def normalized(answer: str, example: Example) -> Verdict:
    """Right when equal in words: case, punctuation, articles and number words do not count."""
    return _short(short_answer.equal(answer, example.answer))


def yes_or_no(answer: str, example: Example) -> Verdict:
    """Right when the answer says yes or no, and says it rightly; anything unclear is wrong."""
    said = yes_no.parse_strict(answer)
    return _short(said == ("yes" if yes_no.read_truth(example.answer) else "no"))


def caption_judge(lexicon: Lexicon) -> Judge:
    """CHAIR on `lexicon`: right when the caption names objects of the image and no other.

    Raises DataError for an example whose `objects` are unknown, for then everything is invented.
    """

    def caption(answer: str, example: Example) -> Verdict:
        if not example.objects:
            raise DataError(expected=f"`objects` of {example.example_id}, to judge a caption by", got="none")
        check = check_caption(answer, example.objects, lexicon)
        true = len({lexicon.node(name) for name in example.objects})
        invented = tuple(mention.node for mention in check.invented)
        return Verdict(
            right=bool(check.mentions) and not invented,
            score=-float(len(invented)),
            invented=invented,
            recall=1.0 - len(check.missing) / true,
            words=check.words,
        )

    return caption


def auto_judge(lexicon: Lexicon) -> Judge:
    """The judge that fits the question: CHAIR for captions, yes/no where the truth is one, words else."""
    caption = caption_judge(lexicon)

    def auto(answer: str, example: Example) -> Verdict:
        if example.kind == "caption":
            return caption(answer, example)
        if yes_no.parse_strict(example.answer) != "unparsed":
            return yes_or_no(answer, example)
        return normalized(answer, example)

    return auto


_PLAIN: Mapping[str, Judge] = {"exact": exact, "normalized": normalized, "yes_no": yes_or_no}
_WITH_LEXICON: Mapping[str, Callable[[Lexicon], Judge]] = {"auto": auto_judge, "caption": caption_judge}
NAMES: tuple[str, ...] = (*_WITH_LEXICON, *_PLAIN)


def make(name: str, lexicon: Lexicon) -> Judge:
    """The judge of that name, or the function named `module:function`. Raises ConfigError."""
    if name in _WITH_LEXICON:
        return _WITH_LEXICON[name](lexicon)
    if name in _PLAIN:
        return _PLAIN[name]
    if ":" not in name:
        raise ConfigError(expected=f"a judge among {', '.join(NAMES)}, or module:function", got=repr(name))
    return load_function(name)


def check(judge: Judge, answer: str, example: Example) -> Verdict:
    """One answer judged. An empty answer is wrong, whatever the judge; so is asking without a truth."""
    if example.kind != "caption" and not example.answer.strip():
        raise DataError(
            expected=f"the true `answer` of {example.example_id}",
            got="none",
            hint="pairs cannot be mined from questions whose truth is unknown",
        )
    return judge(answer, example) if answer.strip() else Verdict(right=False, score=float("-inf"))


def _short(right: bool) -> Verdict:
    return Verdict(right=right, score=float(right))
