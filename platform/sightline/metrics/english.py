"""English words as NLTK sees them: tokens, tags and lemmas, with its data read from a named place.

CHAIR and AMBER are defined by NLTK's tokeniser, tagger and WordNet lemmatiser; another
lemmatiser gives other numbers. So what was used has a name (`English.name`), and where the
data are absent `PluralWords` stands in under its own name: same steps, plurals by rule.
NLTK downloads nothing here. The data are punkt_tab, averaged_perceptron_tagger_eng and
wordnet (WordNet 3.0 licence), fetched by the user with `python -m nltk.downloader`.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from sightline.errors import DataError
from sightline.metrics.objects import plurals
from sightline.metrics.tagging import Tagger

NEEDED = ("punkt_tab", "averaged_perceptron_tagger_eng", "wordnet")
"""NLTK's names of the data."""

_POS = {"J": "a", "V": "v", "N": "n", "R": "r"}
_PART = r"[A-Za-z0-9]++(?:-[A-Za-z0-9]++)*+"
_PLAIN = re.compile(rf"\s*+(?:{_PART},?\s++)*{_PART}\.?\s*")
_SPLIT_WORDS = re.compile("cannot|gimme|gonna|gotta|lemme|wanna", re.IGNORECASE)
_FALLBACK = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*|[^\w\s]")


class Lemmas(Protocol):
    """What CHAIR needs to know about words."""

    name: str
    """Which tokeniser and lemmatiser; a report prints it."""

    def tokens(self, text: str) -> list[str]:
        """The words and signs of a text, in order."""

    def lemmas(self, tokens: Sequence[str]) -> list[str | None]:
        """Each token's lemma where it is one of the kept words, else None."""


class English:
    """NLTK's tokeniser, tagger and lemmatiser, loaded once.

    `nltk_data` is a folder as `nltk.downloader` makes it, and nothing else is looked at; None =
    where NLTK looks by itself (the variable NLTK_DATA, then its usual folders). Raises DataError
    when data are missing.
    """

    def __init__(self, nltk_data: str | None = None):
        import nltk
        from nltk.corpus.reader.wordnet import WordNetCorpusReader
        from nltk.tag.perceptron import PerceptronTagger
        from nltk.tokenize import NLTKWordTokenizer
        from nltk.tokenize.punkt import PunktSentenceTokenizer, load_punkt_params

        if nltk_data is not None and os.path.isdir(nltk_data) and nltk_data not in nltk.data.path:
            nltk.data.path.append(nltk_data)  # NLTK opens only what lies below folders that stand here
        try:
            self._sentences = PunktSentenceTokenizer()
            self._sentences._params = load_punkt_params(_find(nltk_data, "tokenizers/punkt_tab/english/"))
            self.tagger = PerceptronTagger(loc=_find(nltk_data, f"taggers/{NEEDED[1]}/"))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # "no multilingual functions": none are needed
                self.wordnet = WordNetCorpusReader(_find(nltk_data, "corpora/wordnet/"), None)
        except LookupError as error:
            raise DataError(
                expected=f"NLTK's data ({', '.join(NEEDED)})",
                got=f"not all of them in {nltk_data or 'the folders NLTK looks in'}",
                hint=f"run `python -m nltk.downloader {' '.join(NEEDED)}` where there is a network, "
                "and set NLTK_DATA to the folder",
            ) from error
        self._words = NLTKWordTokenizer()
        self.fast_tagger = Tagger(self.tagger)
        self._lemmas: dict[tuple[str, str], str] = {}
        self.name = f"nltk {nltk.__version__}, WordNet {self.wordnet.get_version()}"

    def tokens(self, text: str) -> list[str]:
        """As `nltk.word_tokenize`: sentences, then words; contractions and signs split off."""
        return [token for sentence in self._sentences.tokenize(text) for token in self._split(sentence)]

    def tags(self, tokens: Sequence[str], wanted: Sequence[bool] | None = None) -> list[str]:
        """Penn Treebank tags as `nltk.pos_tag`; "" where not `wanted` and not needed on the way."""
        return self.fast_tagger.tags(tokens, [True] * len(tokens) if wanted is None else wanted)

    def lemma(self, word: str, pos: str) -> str:
        """As `WordNetLemmatizer.lemmatize`: the shortest form WordNet knows, else the word itself."""
        key = (word, pos)
        if key not in self._lemmas:
            found = self.wordnet._morphy(word, pos)
            self._lemmas[key] = min(found, key=len) if found else word
        return self._lemmas[key]

    def nouns(self, text: str) -> list[str]:
        """The lemmas of a text's nouns (tags NN, NNS, NNP, NNPS), case kept, in order."""
        tokens = self.tokens(text)
        tagged = zip(tokens, self.tags(tokens), strict=True)
        return [self.lemma(token, "n") for token, tag in tagged if tag.startswith("NN")]

    def keeping(self, kept: Iterable[str]) -> KeptLemmas:
        """Lemmas that matter: those among `kept`."""
        return KeptLemmas(self, frozenset(kept))

    def _split(self, sentence: str) -> list[str]:
        """A sentence of plain words, commas and a last period needs none of NLTK's 27 rewritings."""
        if _PLAIN.fullmatch(sentence) and not _SPLIT_WORDS.search(sentence):
            text = sentence.rstrip()
            if text.endswith("."):
                text = text[:-1] + " ."
            return text.replace(",", " ,").split()
        return self._words.tokenize(sentence)


class KeptLemmas:
    """Lemmas by part of speech, as far as they lie among the kept words.

    A token is tagged only when its kept lemma depends on the tag: most words lead to no
    kept word whatever their tag, and most others to the same one.
    """

    def __init__(self, english: English, kept: frozenset[str]):
        self.name = english.name
        self.tokens = english.tokens
        self._english, self._kept = english, kept
        self._known: dict[str, str | None | dict[str, str | None]] = {}

    def lemmas(self, tokens: Sequence[str]) -> list[str | None]:
        """Each token's lemma where it is one of the kept words, else None."""
        known = [self._known[t] if t in self._known else self._look_up(t) for t in tokens]
        undecided = [isinstance(found, dict) for found in known]
        tags = self._english.tags(tokens, undecided) if any(undecided) else [""] * len(tokens)
        return [
            found[_POS.get(tag[:1], "n")] if isinstance(found, dict) else found
            for found, tag in zip(known, tags, strict=True)
        ]

    def _look_up(self, token: str) -> str | None | dict[str, str | None]:
        """The kept lemma or None; by part of speech where that matters."""
        by_pos = {pos: self._english.lemma(token, pos) for pos in _POS.values()}
        kept = {pos: lemma if lemma in self._kept else None for pos, lemma in by_pos.items()}
        self._known[token] = kept if len(set(kept.values())) > 1 else kept["n"]
        return self._known[token]


class PluralWords:
    """The stand-in without NLTK's data: words by a regular expression, plurals by rule, no tags."""

    name = "Sightline's plural rules (no NLTK data: not the published CHAIR)"

    def __init__(self, kept: Iterable[str]):
        self._lemma: dict[str, str] = {}
        for word in sorted(kept):
            self._lemma |= {plural: word for plural in plurals(word) if plural not in self._lemma}
        self._lemma |= {word: word for word in kept}

    def tokens(self, text: str) -> list[str]:
        """Words and signs; hyphens and apostrophes join."""
        return _FALLBACK.findall(text)

    def lemmas(self, tokens: Sequence[str]) -> list[str | None]:
        """Each token's lemma where it is one of the kept words, else None."""
        return [self._lemma.get(token.removesuffix("'s").removesuffix("’s")) for token in tokens]


def _find(nltk_data: str | None, resource: str) -> Any:
    """NLTK's pointer to a folder of data, unpacked or as the zip that its downloader leaves."""
    import nltk

    paths = None if nltk_data is None else [nltk_data]
    kind, name, *rest = resource.split("/")
    try:
        return nltk.data.find(resource, paths)
    except LookupError:
        return nltk.data.find("/".join((kind, f"{name}.zip", name, *rest)), paths)
