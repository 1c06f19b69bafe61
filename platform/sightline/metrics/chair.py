"""CHAIR, to the last digit: which objects a caption names that are not in the image.

Rohrbach et al. 2018 (equations 1 and 2), as everybody runs it: the Python 3 port of their
`utils/chair.py` (shikiw/OPERA and others) with NLTK. Lower case; tokens; lemmas by part of
speech; double words merged; "seat" dropped beside "toilet"; words of the synonym list kept
and named by the first word of their line. Mentions count, not sets: a caption that says
"dog" three times has three. The word list is `coco_words`, the lemmatiser `english`; both
have names, because the numbers move with them. `metrics.objects` is the same idea on any
lexicon, without tags.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from sightline.errors import DataError
from sightline.metrics.bootstrap import Ratio
from sightline.metrics.coco_words import OWN, CocoWords
from sightline.metrics.english import English, Lemmas, PluralWords


@dataclass(frozen=True, slots=True)
class Quirks:
    """Switches for what the released code does by accident; the defaults are as released."""

    as_written: bool = True
    """Entries of the list that cannot match (" motor bike", " cheesecake", "iPhone") stay as they are."""
    indices: Literal["tokens", "opera", "pai"] = "tokens"
    """What `Named.index` counts. tokens: the caption's tokens. opera: the same, but shifted
    after a dropped "seat". pai: the words that are left after merging and dropping."""


@dataclass(frozen=True, slots=True)
class Named:
    """An object the caption names: the `word` of the list, its `node`, and where it stands.

    `first` to `last` are the tokens it covers; `index` is what `Quirks.indices` says.
    """

    word: str
    node: str
    first: int
    last: int
    index: int


@dataclass(frozen=True, slots=True)
class CaptionChair:
    """One caption against the truth. `words` counts tokens and signs after merging, as released."""

    mentions: tuple[Named, ...]
    invented: tuple[Named, ...]
    truth: frozenset[str]
    words: int

    @property
    def hits(self) -> frozenset[str]:
        """True objects that the caption names."""
        return frozenset(m.node for m in self.mentions) & self.truth

    @property
    def missing(self) -> frozenset[str]:
        """True objects that it leaves out."""
        return self.truth - self.hits


class Chair:
    """CHAIR with one word list and one lemmatiser.

    `nltk_data` is a folder of NLTK's data (None = where NLTK looks). `fallback` says what
    happens without them: plurals by rule, under their own name in `lemmatiser`, or a
    DataError. A loaded `english` may be handed over instead.
    """

    def __init__(
        self,
        words: CocoWords = OWN,
        *,
        nltk_data: str | None = None,
        english: English | None = None,
        fallback: bool = True,
        quirks: Quirks | None = None,
    ):
        self._quirks = quirks or Quirks()
        self.words = words
        self._nodes = words.nodes(as_written=self._quirks.as_written)
        self._doubles = words.doubles()
        parts = (part for double in self._doubles for part in double.split())
        kept = {*self._nodes, *parts, "toilet", "seat"}
        self._lemmas: Lemmas
        try:
            self._lemmas = (english or English(nltk_data)).keeping(kept)
        except DataError:
            if not fallback:
                raise
            self._lemmas = PluralWords(kept)

    @property
    def lemmatiser(self) -> str:
        """Which tokeniser and lemmatiser the numbers rest on."""
        return self._lemmas.name

    def truth(self, objects: Iterable[str], references: Iterable[str] = ()) -> frozenset[str]:
        """Node words truly in an image: its annotated objects, and what its reference captions name."""
        annotated = (self._nodes.get(name.lower(), name.lower()) for name in objects)
        named = (mention.node for text in references for mention in self.mentions(text)[0])
        return frozenset((*annotated, *named))

    def mentions(self, caption: str) -> tuple[tuple[Named, ...], int]:
        """The objects a caption names, in order, and its number of words after merging."""
        merged = self._merge(self._lemmas.lemmas(self._lemmas.tokens(caption.lower())))
        said = {word for word, _, _ in merged}
        kept = merged
        if "toilet" in said and "seat" in said:  # the seat of a toilet is no chair
            kept = [entry for entry in merged if entry[0] != "seat"]
        found = []
        for place, (word, first, last) in enumerate(kept):
            node = None if word is None else self._nodes.get(word)
            if word is not None and node is not None:
                index = {"tokens": first, "opera": merged[place][1], "pai": place}
                found.append(Named(word, node, first, last, index[self._quirks.indices]))
        return tuple(found), len(merged)  # the released length still counts the dropped seat

    def check(self, caption: str, truth: Iterable[str]) -> CaptionChair:
        """What a caption says of an image that holds `truth` (node words, or words of the list)."""
        mentions, words = self.mentions(caption)
        nodes = self.truth(truth)
        return CaptionChair(mentions, tuple(m for m in mentions if m.node not in nodes), nodes, words)

    def spans(self, caption: str, named: Sequence[Named]) -> list[tuple[int, int]]:
        """[start, end) characters of each mention, for marking it in the caption."""
        places = _places(caption, self._lemmas.tokens(caption.lower()))
        return [(places[n.first][0], places[n.last][1]) for n in named]

    def tally(self, captions: Sequence[str], truths: Sequence[Iterable[str]]) -> dict[str, Ratio]:
        """Per-caption counts of CHAIR and what must stand beside it.

        chair_s: captions with an invented object / captions. chair_i: invented mentions /
        mentions. recall: true objects named / true objects. length: words a caption (the
        released `Len` is a hundredth of it). set_precision and set_f1 are PAI's and SPIN's:
        objects, not mentions. What is undefined is nan with n = 0. Raises DataError for
        unequal lengths.
        """
        if len(captions) != len(truths):
            raise DataError(
                expected="the true objects of each caption",
                got=f"{len(captions)} captions, {len(truths)} truths",
            )
        return ratios([self.check(c, t) for c, t in zip(captions, truths, strict=True)])

    def _merge(self, lemmas: Sequence[str | None]) -> list[tuple[str | None, int, int]]:
        """(word, first token, last token) of each word, double words as one."""
        merged: list[tuple[str | None, int, int]] = []
        at = 0
        while at < len(lemmas):
            word, wide = lemmas[at], 1
            if word is not None and at + 1 < len(lemmas):
                double = self._doubles.get(f"{word} {lemmas[at + 1]}")
                if double is not None:
                    word, wide = double, 2
            merged.append((word, at, at + wide - 1))
            at += wide
        return merged


def ratios(checks: Sequence[CaptionChair]) -> dict[str, Ratio]:
    """The counts of `Chair.tally` from checked captions."""
    mentions = [len(c.mentions) for c in checks]
    named = [len({m.node for m in c.mentions}) for c in checks]
    true = [len(c.truth) for c in checks]
    hits = [len(c.hits) for c in checks]
    return {
        "chair_s": Ratio.of([bool(c.invented) for c in checks]),
        "chair_i": Ratio.of([len(c.invented) for c in checks], mentions),
        "recall": Ratio.of(hits, true),
        "length": Ratio.of([c.words for c in checks]),
        "set_precision": Ratio.of(hits, named),
        "set_f1": Ratio.of([2 * h for h in hits], [n + t for n, t in zip(named, true, strict=True)]),
    }


def _places(caption: str, tokens: Sequence[str]) -> list[tuple[int, int]]:
    """[start, end) of each token; where one was rewritten (quotes), an empty place after the last."""
    # Lower case letter by letter: a few letters grow when lowered, and places must stay.
    text = "".join(low if len(low := letter.lower()) == 1 else letter for letter in caption)
    places, at = [], 0
    for token in tokens:
        start = text.find(token, at)
        if start < 0:
            places.append((at, at))
            continue
        at = start + len(token)
        places.append((start, at))
    return places
