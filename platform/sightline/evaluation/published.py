"""Published benchmarks are scored by their own rules: which scorer, by the `source` of the examples.

POPE, captions and short answers need nothing special; AMBER, InfoSeek, KVQA, medical questions
and reports do. What needs a judge (MMHal's rating, claims) is asked for by hand with
`metrics.mmhal` and `metrics.claims`; here MMHal's answers are compared with its references.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

from sightline.data.amber import read_amber_words
from sightline.errors import DataError
from sightline.evaluation.predictions import Prediction
from sightline.metrics import amber, medical, text_overlap, vqa, yes_no
from sightline.metrics.amber import AmberWords
from sightline.metrics.bootstrap import Ratio
from sightline.metrics.english import English, PluralWords

_MEDICAL = ("medhall", "mmed_rag")


def ratios(rows: Sequence[Prediction], parser: str) -> dict[str, Ratio] | None:
    """Per-item counts of one benchmark by its own rules; None where the common rules are its own."""
    source, kind = rows[0].example.source, rows[0].example.kind
    answers = [row.answer for row in rows]
    truths = [row.example.answer for row in rows]
    if source == "amber":
        return _described(rows) if kind == "caption" else _amber_questions(rows, parser)
    if source in ("infoseek", "kvqa"):
        return vqa.tally(answers, [_accepted(row) for row in rows])
    if source in _MEDICAL and kind == "yes_no":
        return medical.tally(answers, truths, parser=parser)
    if source in _MEDICAL and "gold" in rows[0].example.meta:
        golds = [str(row.example.meta["gold"]) for row in rows]
        return medical.tally_choices(answers, golds, [bool(row.example.meta["unsuitable"]) for row in rows])
    if source in (*_MEDICAL, "mmhal"):
        return text_overlap.tally(answers, [[truth] for truth in truths])
    return None


@cache
def english() -> English | None:
    """NLTK with the data it finds by itself; None where there are none."""
    try:
        return English()
    except DataError:
        return None


@cache
def _amber_words(folder: str) -> AmberWords:
    return AmberWords(*read_amber_words(folder))


def _described(rows: Sequence[Prediction]) -> dict[str, Ratio]:
    examples = [row.example for row in rows]
    words = _amber_words(str(examples[0].meta["tables"]))
    return amber.generative(
        [row.answer for row in rows],
        [e.objects for e in examples],
        [e.meta["hallu"] for e in examples],
        words,
        nouns=_nouns(words),
    )


def _nouns(words: AmberWords) -> Callable[[str], list[str]]:
    """NLTK's nouns, or without its data every word of the tables, plurals by rule."""
    found = english()
    if found is not None:
        return found.nouns
    rules = PluralWords(words.known())
    return lambda text: [lemma for lemma in rules.lemmas(rules.tokens(text)) if lemma is not None]


def _amber_questions(rows: Sequence[Prediction], parser: str) -> dict[str, Ratio]:
    """The usual counts, and AMBER's of the class No, on answers as the parser reads them."""
    answers = [row.answer for row in rows]
    truths = [row.example.answer for row in rows]
    words = {"yes": "Yes", "no": "No", "unparsed": ""}
    read = [words[yes_no.parse(a, parser, t == "yes")] for a, t in zip(answers, truths, strict=True)]
    of_no = amber.discriminative(read, truths, [str(row.example.meta["type"]) for row in rows])["all"]
    return yes_no.tally(answers, truths, parser=parser) | {
        f"{name}_no": of_no[name] for name in ("precision", "recall", "f1")
    }


def _accepted(row: Prediction) -> vqa.Accepted:
    found = row.example.meta.get("accepted", {"texts": [row.example.answer]})
    return vqa.Accepted(**{**found, "texts": tuple(found["texts"])})
