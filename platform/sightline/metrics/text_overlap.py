"""Reports compared with reference texts: BLEU (sacrebleu), ROUGE-L (rouge-score), METEOR (NLTK).

Thin: the libraries count. Each score is a mean over texts, so that images can be resampled;
`corpus_bleu` is the usual pooled one, a single number. METEOR needs WordNet (`english`) and is
absent without it. n-grams say little about facts: these stand beside the factual scores.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from sightline.errors import DataError
from sightline.metrics.bootstrap import Ratio
from sightline.metrics.english import English


def tally(
    texts: Sequence[str], references: Sequence[Sequence[str]], *, english: English | None = None
) -> dict[str, Ratio]:
    """Per-text scores from 0 to 1: `bleu` (sentence BLEU-4, smoothed by sacrebleu's default), `rouge_l`
    (F1, best reference), `meteor` where `english` is given; `empty_rate`.

    An empty text scores 0; a text without a reference has no weight. Raises DataError for
    unequal lengths.
    """
    _check(texts, references)
    known = [bool(any(r.strip() for r in refs)) for refs in references]
    pairs = [(t, [r for r in refs if r.strip()]) for t, refs in zip(texts, references, strict=True)]
    scores = {"bleu": _bleu(pairs), "rouge_l": _rouge(pairs)}
    if english is not None:
        scores["meteor"] = _meteor(pairs, english)
    return {name: Ratio.of(values, known) for name, values in scores.items()} | {
        "empty_rate": Ratio.of([not t.strip() for t in texts])
    }


def corpus_bleu(texts: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """BLEU-4 of all texts together, 0 to 1 (13a tokens); nan when no text has a reference."""
    import sacrebleu

    _check(texts, references)
    kept = [(t, [r for r in refs if r.strip()]) for t, refs in zip(texts, references, strict=True)]
    kept = [(t, refs) for t, refs in kept if refs]
    if not kept:
        return math.nan
    most = max(len(refs) for _, refs in kept)
    columns: Any = [[refs[i] if i < len(refs) else None for _, refs in kept] for i in range(most)]
    return float(sacrebleu.corpus_bleu([t for t, _ in kept], columns).score) / 100


def libraries() -> str:
    """Which libraries count, with their versions, for the report."""
    return ", ".join(f"{name} {version(name)}" for name in ("sacrebleu", "rouge-score", "nltk"))


def _bleu(pairs: Sequence[tuple[str, list[str]]]) -> list[float]:
    import sacrebleu

    return [sacrebleu.sentence_bleu(t, refs).score / 100 if t.strip() and refs else 0.0 for t, refs in pairs]


def _rouge(pairs: Sequence[tuple[str, list[str]]]) -> list[float]:
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"], use_stemmer=True)
    return [
        max((float(scorer.score(r, t)["rougeL"].fmeasure) for r in refs), default=0.0) for t, refs in pairs
    ]


def _meteor(pairs: Sequence[tuple[str, list[str]]], english: English) -> list[float]:
    from nltk.translate.meteor_score import meteor_score

    return [
        float(meteor_score([english.tokens(r) for r in refs], english.tokens(t), wordnet=english.wordnet))
        if t.strip() and refs
        else 0.0
        for t, refs in pairs
    ]


def _check(texts: Sequence[str], references: Sequence[Sequence[str]]) -> None:
    if len(texts) != len(references):
        raise DataError(
            expected="the references of each text", got=f"{len(texts)} texts, {len(references)} references"
        )
