"""AMBER: what a description invents, covers and imagines, and what it answers to yes/no questions.

Wang et al. 2023, with the rules of `junyangwang0410/AMBER/inference.py`. Descriptions: nouns
(NLTK's NN tags, lemmatised, case kept) that stand in the benchmark's association table; each is
true (in the image's list or associated with it), imagined (in its list of likely hallucinations)
or invented; similar words count when a word-vector backend says so. Questions: the answer must be
`Yes` or `No` to the letter; precision and recall are of the class No.

`released` repeats the order in which the code looks words up: an association of an earlier true
word takes the cover from a true word that is named itself. `paper` looks for the word itself
first. The released denominators start at 0.001 and F1 adds 0.0001; here nothing is added, and
what is undefined is nan.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from sightline.errors import DataError
from sightline.metrics.bootstrap import Ratio

Mode = Literal["paper", "released"]
DIMENSIONS: Mapping[str, tuple[str, ...]] = {
    "discriminative-hallucination": ("existence",),
    "discriminative-attribute-state": ("attribute", "state"),
    "discriminative-attribute-number": ("attribute", "number"),
    "discriminative-attribute-action": ("attribute", "action"),
    "discriminative-relation": ("relation",),
    "relation": ("relation",),
}
"""The annotation's type of a question -> the tables it counts in."""


class Similar(Protocol):
    """Do two different words mean the same? `name` says who decides."""

    name: str

    def __call__(self, noun: str, word: str) -> bool:
        """True when `noun` may stand for `word`."""


class ExactOnly:
    """Only equal words are similar."""

    name = "equal words only (no word vectors: not the published AMBER)"

    def __call__(self, noun: str, word: str) -> bool:
        """Are they the same word?"""
        return noun == word


class VectorSimilarity:
    """Cosine above a threshold; AMBER takes spaCy's `en_core_web_lg` and 0.8.

    `vectors` maps a word to its vector; a word without one is similar to itself alone.
    """

    def __init__(self, vectors: Mapping[str, npt.ArrayLike], *, name: str, threshold: float = 0.8):
        self.name, self._vectors, self._threshold = f"{name}, cosine > {threshold}", vectors, threshold

    def __call__(self, noun: str, word: str) -> bool:
        """Is the cosine of the two above the threshold?"""
        if noun == word:
            return True
        if noun not in self._vectors or word not in self._vectors:
            return False
        a, b = (np.asarray(self._vectors[w], dtype=np.float64) for w in (noun, word))
        norms = float(np.linalg.norm(a) * np.linalg.norm(b))
        return norms > 0 and float(a @ b) / norms > self._threshold


@dataclass(frozen=True, slots=True)
class AmberWords:
    """The benchmark's tables: word -> associated words (`relation.json`), words that never count."""

    associated: Mapping[str, Sequence[str]]
    safe: frozenset[str]

    def known(self) -> frozenset[str]:
        """Words that are looked at; all other nouns are passed over."""
        return frozenset(self.associated) | {w for words in self.associated.values() for w in words}


@dataclass(frozen=True, slots=True)
class Description:
    """One description judged. `covered` and `imagined` are places in the two lists of the image."""

    nouns: tuple[str, ...]
    invented: tuple[str, ...]
    covered: frozenset[int]
    imagined: frozenset[int]


def describe(
    nouns: Sequence[str],
    truth: Sequence[str],
    hallu: Sequence[str],
    words: AmberWords,
    *,
    similar: Similar | None = None,
    mode: Mode = "paper",
) -> Description:
    """Judge the nouns of one description against the image's true and imaginable words."""
    alike = similar or ExactOnly()
    known = words.known()
    kept = tuple(noun for noun in nouns if noun in known)
    true_list, hallu_list = _entries(truth, words, mode), _entries(hallu, words, mode)
    invented, covered, imagined = [], set(), set()
    for noun in kept:
        if noun in words.safe:
            continue
        place = _first(true_list, lambda word, noun=noun: word == noun)  # type: ignore[misc]
        if place is not None:
            covered.add(place)
            continue
        for test in (lambda word, noun=noun: word == noun, lambda word, noun=noun: alike(noun, word)):
            place = _first(hallu_list, test)
            if place is not None:
                imagined.add(place)
        place = _first(true_list, lambda word, noun=noun: alike(noun, word))  # type: ignore[misc]
        if place is None:
            invented.append(noun)
        else:
            covered.add(place)  # a noun may be imagined and covered at once, as released
    return Description(kept, tuple(invented), frozenset(covered), frozenset(imagined))


def generative(
    answers: Sequence[str],
    truths: Sequence[Sequence[str]],
    hallus: Sequence[Sequence[str]],
    words: AmberWords,
    *,
    nouns: Callable[[str], Sequence[str]],
    similar: Similar | None = None,
    mode: Mode = "paper",
) -> dict[str, Ratio]:
    """Per-description counts: `chair` invented nouns / nouns, `cover` true words named / true words,
    `hal` descriptions with an invented noun, `cog` imaginable words named / imaginable words.

    `nouns` is `English.nouns`, or a stand-in. Raises DataError for unequal lengths.
    """
    if not len(answers) == len(truths) == len(hallus):
        raise DataError(
            expected="a true and an imaginable list for each answer",
            got=f"{len(answers)} answers, {len(truths)} and {len(hallus)} lists",
        )
    judged = [
        describe(nouns(a), t, h, words, similar=similar, mode=mode)
        for a, t, h in zip(answers, truths, hallus, strict=True)
    ]
    return {
        "chair": Ratio.of([len(d.invented) for d in judged], [len(d.nouns) for d in judged]),
        "cover": Ratio.of([len(d.covered) for d in judged], [len(t) for t in truths]),
        "hal": Ratio.of([bool(d.invented) for d in judged]),
        "cog": Ratio.of([len(d.imagined) for d in judged], [len(h) for h in hallus]),
        "empty_rate": Ratio.of([not a.strip() for a in answers]),
    }


def discriminative(
    answers: Sequence[str], truths: Sequence[str], types: Sequence[str]
) -> dict[str, dict[str, Ratio]]:
    """For all questions and each dimension (existence, attribute, state, number, action, relation):
    accuracy, and precision, recall and F1 of the class No; `unparsed_rate` is of answers that are
    neither `Yes` nor `No` to the letter, which count as wrong.

    Each Ratio has an entry for every question, weightless outside its dimension. Raises DataError
    for unequal lengths, a truth that is neither yes nor no, or an unknown type.
    """
    if not len(answers) == len(truths) == len(types):
        raise DataError(
            expected="a truth and a type for each answer",
            got=f"{len(answers)} answers, {len(truths)} truths, {len(types)} types",
        )
    if unknown := sorted(set(types) - set(DIMENSIONS)):
        raise DataError(expected=f"types among {', '.join(DIMENSIONS)}", got=", ".join(unknown))
    if wrong := sorted(set(truths) - {"yes", "no"}):
        raise DataError(expected="truths of yes and no", got=", ".join(map(repr, wrong)))
    tables = {"all": np.ones(len(types), dtype=bool)} | {
        name: np.asarray([name in DIMENSIONS[t] for t in types], dtype=bool)
        for name in dict.fromkeys(n for names in DIMENSIONS.values() for n in names)
    }
    said_no_N = np.asarray([a == "No" for a in answers], dtype=bool)
    said_yes_N = np.asarray([a == "Yes" for a in answers], dtype=bool)
    is_no_N = np.asarray([t == "no" for t in truths], dtype=bool)
    return {name: _counts(said_no_N, said_yes_N, is_no_N, in_N) for name, in_N in tables.items()}


def score(chair: float, f1: float) -> float:
    """The AMBER score of both parts, as shares: (1 - CHAIR + F1) / 2; nan when one is undefined."""
    return math.nan if math.isnan(chair) or math.isnan(f1) else (1.0 - chair + f1) / 2.0


def _counts(
    said_no_N: npt.NDArray[np.bool_],
    said_yes_N: npt.NDArray[np.bool_],
    is_no_N: npt.NDArray[np.bool_],
    in_N: npt.NDArray[np.bool_],
) -> dict[str, Ratio]:
    hit_N = said_no_N & is_no_N & in_N
    said_N, true_N = said_no_N & in_N, is_no_N & in_N
    return {
        "accuracy": Ratio.of(hit_N | (said_yes_N & ~is_no_N & in_N), in_N),
        "precision": Ratio.of(hit_N, said_N),
        "recall": Ratio.of(hit_N, true_N),
        "f1": Ratio.of(2.0 * hit_N, said_N.astype(np.float64) + true_N),
        "unparsed_rate": Ratio.of(~said_no_N & ~said_yes_N & in_N, in_N),
    }


def _entries(listed: Sequence[str], words: AmberWords, mode: Mode) -> list[tuple[str, int]]:
    """(word, place in the list) in the order of looking up."""
    associated = [(w, i) for i, word in enumerate(listed) for w in words.associated.get(word, ())]
    itself = [(word, i) for i, word in enumerate(listed)]
    return associated + itself if mode == "released" else itself + associated


def _first(entries: Sequence[tuple[str, int]], test: Callable[[str], bool]) -> int | None:
    """The place of the first word that passes."""
    return next((place for word, place in entries if test(word)), None)
