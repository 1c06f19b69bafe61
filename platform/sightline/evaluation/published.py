"""Published benchmarks by their own rules: which scorer, by the `source` of the examples.

POPE and the world's questions need nothing special; CHAIR on COCO, AMBER, InfoSeek, KVQA,
medical questions and reports do. What needs a judge (MMHal's ratings, claims of captions) has a
score where the settings name one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from sightline.config.benchmark import BenchmarkConfig
from sightline.config.dataset import BenchmarkFiles
from sightline.data.amber import read_amber_words
from sightline.data.examples import require_file
from sightline.errors import ConfigError, DataError
from sightline.evaluation.judged import Judged
from sightline.evaluation.predictions import Prediction
from sightline.metrics import amber, medical, text_overlap, vqa
from sightline.metrics.amber import AmberWords, ExactOnly
from sightline.metrics.bootstrap import Ratio
from sightline.metrics.chair import Chair
from sightline.metrics.coco_words import OWN, CocoWords
from sightline.metrics.english import English, PluralWords
from sightline.metrics.objects import plurals

_PICTURES = ("coco", "flickr8k", "objects")
"""Sources whose captions name COCO's objects."""
_MEDICAL = ("medhall", "mmed_rag")


@dataclass(frozen=True)
class Published:
    """The scorers, loaded when the first example asks for them. `notes` says what each rests on."""

    amber: str | None = None
    """Folder of AMBER's word tables."""
    synonyms: str | None = None
    """CHAIR's word list; None = our own."""
    nltk_data: str | None = None
    """Folder of NLTK's data; None = where NLTK looks."""
    judge: Judged | None = None
    """Who is asked about answers that no rule can read; None = nobody, and they have no such score."""
    notes: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, config: BenchmarkConfig) -> Published:
        """What the settings name; AMBER's tables lie in the folder of its benchmark."""
        files = [d for d in config.benchmarks.values() if isinstance(d, BenchmarkFiles)]
        folder = next((d.path for d in files if d.type == "amber"), None)
        return cls(folder, config.synonyms, config.nltk_data)

    def judged(self, judge: Judged) -> Published:
        """The same with a judge."""
        return replace(self, judge=judge, notes=[])

    def remarks(self) -> list[str]:
        """What the scores rest on, sorted: words, libraries, the judge and which replies are unread."""
        return sorted([*self.notes, *(self.judge.notes() if self.judge is not None else ())])

    def ratios(self, rows: Sequence[Prediction], parser: str = "strict") -> dict[str, Ratio] | None:
        """Per-item counts of one benchmark; None where its kind of question says how it is scored.
        `parser` reads medical yes/no answers; AMBER's have a rule of their own.

        Raises ConfigError when AMBER's tables are not known, DataError when a file is missing.
        """
        source, kind = rows[0].example.source, rows[0].example.kind
        answers, truths = [row.answer for row in rows], [row.example.answer for row in rows]
        if kind == "caption" and source in _PICTURES:
            return self._captions(rows)
        if source == "amber":
            return self._descriptions(rows) if kind == "caption" else _questions(rows)
        if source in ("infoseek", "kvqa"):
            return vqa.tally(answers, [_accepted(row) for row in rows])
        if source in _MEDICAL and "gold" in rows[0].example.meta:
            golds = [str(row.example.meta["gold"]) for row in rows]
            odd = [bool(row.example.meta["unsuitable"]) for row in rows]
            return medical.tally_choices(answers, golds, odd)
        if source in _MEDICAL and kind == "yes_no":
            return medical.tally(answers, truths, parser=parser)
        if source in _MEDICAL and kind == "open":
            self._note(f"reports: {text_overlap.libraries()}")
            return text_overlap.tally(answers, [[truth] for truth in truths], english=self._english)
        if source == "mmhal":
            return self._ratings(rows)
        return None

    def wrong_spans(self, prediction: Prediction) -> list[list[int]] | None:
        """[start, end) of what its scorer calls wrong in an answer; None where the common rules say it."""
        example, answer = prediction.example, prediction.answer
        if example.kind == "caption" and example.source in _PICTURES:
            truth = self._chair.truth(example.objects, example.meta.get("references", ()))
            invented = self._chair.check(answer, truth).invented
            return [list(span) for span in self._chair.spans(answer, invented)]
        if example.kind == "caption" and example.source == "amber":
            words = self._amber_words
            nouns = _nouns(words, self._english)[0](answer)
            judged = amber.describe(nouns, example.objects, example.meta["hallu"], words)
            return _places(answer, judged.invented)
        if example.source in ("infoseek", "kvqa"):
            return [] if vqa.relaxed(answer, _accepted(prediction)) else [[0, len(answer)]]
        if example.source == "mmhal":
            bad = self.judge is not None and self.judge.is_hallucinated(prediction)
            return [[0, len(answer)]] if bad else []
        return None

    @cached_property
    def _english(self) -> English | None:
        try:
            return English(self.nltk_data)
        except DataError:
            return None

    @cached_property
    def _chair(self) -> Chair:
        words = OWN
        if self.synonyms is not None:
            path = Path(self.synonyms)
            require_file(path)
            words = CocoWords.parse(path.read_text(encoding="utf-8"))
        return Chair(words, nltk_data=self.nltk_data, english=self._english)

    @cached_property
    def _amber_words(self) -> AmberWords:
        if self.amber is None:
            raise ConfigError(
                expected="AMBER's folder, whose word tables score descriptions",
                got="examples of AMBER from elsewhere",
                hint="read it with `type: amber` and the `path` of its data folder",
            )
        return AmberWords(*read_amber_words(self.amber))

    def _captions(self, rows: Sequence[Prediction]) -> dict[str, Ratio]:
        """CHAIR; true is what is annotated and what the reference captions name."""
        chair = self._chair
        self._note(f"CHAIR: words of {chair.words.name}; lemmatiser {chair.lemmatiser}")
        truths = [chair.truth(row.example.objects, row.example.meta.get("references", ())) for row in rows]
        counts = chair.tally([row.answer for row in rows], truths)
        return counts | (self.judge.claims(rows) if self.judge is not None else {})

    def _ratings(self, rows: Sequence[Prediction]) -> dict[str, Ratio]:
        """MMHal: what the judge says, and how many answers were empty."""
        empty = {"empty_rate": Ratio.of([not row.answer.strip() for row in rows])}
        if self.judge is None:
            self._note("MMHal: no judge was named (`judge`), so answers are kept and not rated")
            return empty
        return self.judge.ratings(rows) | empty

    def _descriptions(self, rows: Sequence[Prediction]) -> dict[str, Ratio]:
        words = self._amber_words
        nouns, how = _nouns(words, self._english)
        self._note(f"AMBER: nouns by {how}; {ExactOnly.name}")
        return amber.generative(
            [row.answer for row in rows],
            [row.example.objects for row in rows],
            [row.example.meta["hallu"] for row in rows],
            words,
            nouns=nouns,
        )

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)


def _nouns(words: AmberWords, english: English | None) -> tuple[Callable[[str], list[str]], str]:
    """NLTK's nouns, or without its data every word of the tables, plurals by rule; and how."""
    if english is not None:
        return english.nouns, english.name
    rules = PluralWords(words.known())
    return lambda text: [w for w in rules.lemmas(rules.tokens(text)) if w is not None], rules.name


def _places(text: str, nouns: Sequence[str]) -> list[list[int]]:
    """[start, end) of every place where a text names one of the nouns, singular or plural."""
    forms = {form for noun in nouns for form in (noun, *plurals(noun))}
    if not forms:
        return []
    either = "|".join(re.escape(form) for form in sorted(forms, key=len, reverse=True))
    return [[m.start(), m.end()] for m in re.finditer(rf"\b(?:{either})\b", text)]


def _questions(rows: Sequence[Prediction]) -> dict[str, Ratio]:
    """AMBER's questions as released: Yes or No to the letter, precision and recall of the class No."""
    counts = amber.discriminative(
        [row.answer for row in rows],
        [row.example.answer for row in rows],
        [str(row.example.meta["type"]) for row in rows],
    )["all"]
    own = ("precision", "recall", "f1")
    return {f"no_{name}" if name in own else name: ratio for name, ratio in counts.items()}


def _accepted(row: Prediction) -> vqa.Accepted:
    return vqa.Accepted.of(row.example.meta.get("accepted", {"texts": [row.example.answer]}))
