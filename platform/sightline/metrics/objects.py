"""Objects named in free text, and CHAIR: which of them are not in the image.

A lexicon maps surface forms to node words ("puppy" -> "dog"). Mentions are found in
order, the longest form first ("traffic light" before "light"), singular or plural,
with their character spans, so a page can mark the offending words.
CHAIR: Rohrbach et al. 2018, equations 1 and 2. This is the method on any lexicon;
the bit-exact COCO scorer with its tagger and quirks is another module's business.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from sightline.errors import DataError
from sightline.metrics.bootstrap import Ratio

_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
_JOINT = re.compile(r"[\s\-‐‑]+")
_IRREGULAR = {
    "person": "people",
    "man": "men",
    "woman": "women",
    "child": "children",
    "mouse": "mice",
    "goose": "geese",
    "tooth": "teeth",
    "foot": "feet",
    "knife": "knives",
    "wolf": "wolves",
    "loaf": "loaves",
    "leaf": "leaves",
    "calf": "calves",
    "shelf": "shelves",
    "scarf": "scarves",
}


@dataclass(frozen=True, slots=True)
class Mention:
    """An object named in a text: `text[start:end]` is the surface form, `node` its node word."""

    node: str
    start: int
    end: int


def plurals(word: str) -> tuple[str, ...]:
    """Plural spellings of a noun; of a compound, of its last word ("wine glasses")."""
    head, _, last = word.rpartition(" ")
    prefix = f"{head} " if head else ""
    for singular, plural in _IRREGULAR.items():
        compound = singular == "man" and last.endswith("man") and not last.endswith("human")
        if last == singular or compound:
            return (prefix + last.removesuffix(singular) + plural,)
    if last.endswith(("s", "x", "z", "ch", "sh")):
        return (prefix + last + "es",)
    if last.endswith("y") and last[-2:-1] not in "aeiou":
        return (prefix + last[:-1] + "ies",)
    if last.endswith("o"):
        return (prefix + last + "s", prefix + last + "es")
    return (prefix + last + "s",)


def words(text: str) -> int:
    """How many words a text has; punctuation is none."""
    return sum(1 for _ in _WORD.finditer(text))


class Lexicon:
    """Surface forms and the node words they stand for, ready to be found in text.

    `surfaces` maps surface form to node word; node words are their own surface form
    and plurals are added. Raises DataError for an empty lexicon or an empty form.
    """

    def __init__(self, surfaces: Mapping[str, str]):
        if not surfaces:
            raise DataError(expected="a lexicon with at least one noun", got="none")
        forms: dict[tuple[str, ...], str] = {}
        for surface, node in (*((n, n) for n in surfaces.values()), *surfaces.items()):
            for form in (surface.lower(), *plurals(surface.lower())):
                tokens = tuple(_WORD.findall(form))
                if not tokens:
                    raise DataError(expected="nouns with at least one letter", got=repr(surface))
                # The form itself outranks a plural made by rule ("glasses" may be a node of its own).
                if form == surface.lower() or tokens not in forms:
                    forms[tokens] = node
        self.nodes = tuple(sorted(set(surfaces.values())))
        self._forms = forms
        self._lengths: dict[str, tuple[int, ...]] = {}
        for tokens in forms:
            lengths = {len(tokens), *self._lengths.get(tokens[0], ())}
            self._lengths[tokens[0]] = tuple(sorted(lengths, reverse=True))

    def mentions(self, text: str) -> tuple[Mention, ...]:
        """Every object named in `text`, left to right, longest form first, none overlapping."""
        found: list[Mention] = []
        matches = list(_WORD.finditer(text))
        tokens = [m.group().lower().removesuffix("'s").removesuffix("’s") for m in matches]
        at = 0
        while at < len(tokens):
            length = self._longest_at(text, tokens, matches, at)
            if length:
                node = self._forms[tuple(tokens[at : at + length])]
                end = matches[at + length - 1].start() + len(tokens[at + length - 1])
                found.append(Mention(node, matches[at].start(), end))
            at += max(1, length)
        return tuple(found)

    def node(self, noun: str) -> str:
        """The node word of a noun; a noun that is not in the lexicon stays itself."""
        return self._forms.get(tuple(_WORD.findall(noun.lower())), noun.lower())

    def _longest_at(self, text: str, tokens: list[str], matches: list[re.Match[str]], at: int) -> int:
        """Tokens of the longest form that starts at `at`; 0 when none does."""
        for length in self._lengths.get(tokens[at], ()):
            last = at + length - 1
            if last >= len(tokens) or tuple(tokens[at : last + 1]) not in self._forms:
                continue
            # "a fire. Hydrant" is no fire hydrant: only spaces and hyphens join words.
            gaps = (text[matches[i].end() : matches[i + 1].start()] for i in range(at, last))
            if all(_JOINT.fullmatch(gap) for gap in gaps):
                return length
        return 0


@dataclass(frozen=True, slots=True)
class CaptionCheck:
    """One caption against the truth: what it named, what it invented, what it left out."""

    mentions: tuple[Mention, ...]
    invented: tuple[Mention, ...]
    missing: tuple[str, ...]
    words: int


def check_caption(caption: str, objects: Iterable[str], lexicon: Lexicon) -> CaptionCheck:
    """What `caption` says about an image that holds `objects` (node words or surface forms)."""
    truth = {lexicon.node(o) for o in objects}
    mentions = lexicon.mentions(caption)
    named = {m.node for m in mentions}
    return CaptionCheck(
        mentions=mentions,
        invented=tuple(m for m in mentions if m.node not in truth),
        missing=tuple(sorted(truth - named)),
        words=words(caption),
    )


def tally(captions: Sequence[str], truths: Sequence[Iterable[str]], lexicon: Lexicon) -> dict[str, Ratio]:
    """Per-caption counts of CHAIR and what must be reported beside it.

    chair_s: captions with an invented object / captions. chair_i: invented mentions /
    mentions, repeats counted. recall: true objects named / true objects. length:
    words a caption. No captions, or none that names an object, give undefined ratios.
    """
    if len(captions) != len(truths):
        raise DataError(
            expected="the true objects of each caption", got=f"{len(captions)} captions, {len(truths)} truths"
        )
    sets = [{lexicon.node(o) for o in objects} for objects in truths]
    checks = [check_caption(c, objects, lexicon) for c, objects in zip(captions, sets, strict=True)]
    true_count = [len(objects) for objects in sets]
    return {
        "chair_s": Ratio.of([bool(c.invented) for c in checks]),
        "chair_i": Ratio.of([len(c.invented) for c in checks], [len(c.mentions) for c in checks]),
        "recall": Ratio.of([n - len(c.missing) for n, c in zip(true_count, checks, strict=True)], true_count),
        "length": Ratio.of([c.words for c in checks]),
    }
