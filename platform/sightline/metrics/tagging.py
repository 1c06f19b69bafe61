"""NLTK's part-of-speech tags, faster: only where they are asked for, and in whole numbers.

NLTK's averaged perceptron (Honnibal 2013, `nltk.tag.perceptron`) goes left to right and sums
fourteen features a token, each a table of weights by tag. Three facts make it cheaper without
changing one tag:

1. Its weights are rounded to thousandths, so sums of whole thousandths decide as the floats
   do unless two tags tie; then the original is asked.
2. Eleven features depend on words alone, so their sums are kept by word.
3. A tag depends on the two before it and on nothing behind it; words of the tag dictionary
   depend on nothing. So tags that nobody asked for are computed only where one that was
   asked for hangs on them.

Legend: C tags (45 Penn Treebank classes).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from nltk.tag.perceptron import PerceptronTagger

_ROUNDING = 1e-9
_Scores = npt.NDArray[np.int64]


class Tagger:
    """The tags that `nltk.tag.PerceptronTagger` gives, at the places that are wanted."""

    def __init__(self, tagger: PerceptronTagger):
        self._nltk = tagger
        self._weights: Mapping[str, Mapping[str, float]] = tagger.model.weights
        self._labels = sorted(tagger.classes)
        self._column = {label: c for c, label in enumerate(self._labels)}
        self._exact = all(
            abs(weight * 1000 - round(weight * 1000)) < _ROUNDING
            for table in self._weights.values()
            for weight in table.values()
        )
        self._own: dict[str, _Scores] = {}
        self._near: dict[tuple[int, str], _Scores] = {}
        self._tags: dict[tuple[str, str], _Scores] = {}
        self._tag_word: dict[tuple[str, str], _Scores | None] = {}

    def tags(self, tokens: Sequence[str], wanted: Sequence[bool]) -> list[str]:
        """One tag a token, equal to NLTK's wherever `wanted`; elsewhere it may be "" (not computed)."""
        if not self._exact:
            return [tag for _, tag in self._nltk.tag(list(tokens))]
        known = [self._nltk.tagdict.get(token) for token in tokens]
        needed = list(wanted)
        for i in range(len(tokens) - 1, 0, -1):
            if needed[i] and not known[i]:
                needed[i - 1] = needed[max(0, i - 2)] = True
        context = [*self._nltk.START, *map(self._nltk.normalize, tokens), *self._nltk.END]
        before, two_before = self._nltk.START
        found: list[str] = []
        for i, token in enumerate(tokens):
            tag = known[i] or (self._choose(i, token, context, before, two_before) if needed[i] else "")
            found.append(tag)
            before, two_before = tag, before
        return found

    def _choose(self, i: int, token: str, context: Sequence[str], before: str, two_before: str) -> str:
        scores_C = self._own_scores(token, context[i + 2]) + self._tag_scores(before, two_before)
        for offset in (-1, -2, 1, 2):
            scores_C += self._near_scores(offset, context[i + 2 + offset])
        paired_C = self._tag_word_scores(before, context[i + 2])
        if paired_C is not None:
            scores_C += paired_C
        best = int(scores_C.argmax())
        if np.count_nonzero(scores_C == scores_C[best]) > 1:  # the floats' last bits decide a tie
            features = self._nltk._get_features(i, token, context, before, two_before)
            return str(self._nltk.model.predict(features)[0])
        return self._labels[best]

    def _own_scores(self, token: str, word: str) -> _Scores:
        if token not in self._own:
            pref = token[0] if token else ""
            names = ("bias", f"i suffix {token[-3:]}", f"i pref1 {pref}", f"i word {word}")
            self._own[token] = self._sum(names)
        return self._own[token]

    def _near_scores(self, offset: int, word: str) -> _Scores:
        """What the word at `offset` says about this token's tag."""
        key = (offset, word)
        if key not in self._near:
            names = [f"i{offset:+d} word {word}"]
            if abs(offset) == 1:
                names.append(f"i{offset:+d} suffix {word[-3:]}")
            self._near[key] = self._sum(names)
        return self._near[key]

    def _tag_scores(self, before: str, two_before: str) -> _Scores:
        key = (before, two_before)
        if key not in self._tags:
            names = (f"i-1 tag {before}", f"i-2 tag {two_before}", f"i tag+i-2 tag {before} {two_before}")
            self._tags[key] = self._sum(names)
        return self._tags[key]

    def _tag_word_scores(self, before: str, word: str) -> _Scores | None:
        key = (before, word)
        if key not in self._tag_word:
            name = f"i-1 tag+i word {before} {word}"
            self._tag_word[key] = self._sum((name,)) if name in self._weights else None
        return self._tag_word[key]

    def _sum(self, features: Sequence[str]) -> _Scores:
        """(C,) thousandths: the features' weights, added up by tag."""
        scores_C = np.zeros(len(self._labels), dtype=np.int64)
        for feature in features:
            for label, weight in self._weights.get(feature, {}).items():
                scores_C[self._column[label]] += round(weight * 1000)
        return scores_C
