"""From answered questions to tables: benchmark, metric, value, interval, n.

A benchmark is the `split` of its examples (`pope_adversarial`, `color`, `caption`, ...);
the kind of question decides how answers are scored. Rows that failed are left out here
and named by the report.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, assert_never

from sightline.config.evaluation import EvaluationConfig
from sightline.errors import DataError
from sightline.evaluation.predictions import Prediction
from sightline.metrics import objects, short_answer, yes_no
from sightline.metrics.bootstrap import Ratio, estimate
from sightline.metrics.objects import Lexicon

if TYPE_CHECKING:
    from sightline.evaluation.published import Published


@dataclass(frozen=True, slots=True)
class Metric:
    """How to read a score. `unit`: a share (0 to 1) or what is counted; `better`: None if neither way is."""

    label: str
    better: Literal["lower", "higher"] | None
    unit: Literal["share", "words", "rating", "claims"] = "share"
    hallucination: bool = False


METRICS: dict[str, Metric] = {
    "accuracy": Metric("accuracy", "higher"),
    "precision": Metric("precision", "higher"),
    "recall": Metric("recall", "higher"),
    "f1": Metric("F1", "higher"),
    "false_yes_rate": Metric("false yes", "lower", hallucination=True),
    "yes_ratio": Metric("answers yes", None),
    "unparsed_rate": Metric("unparsed", "lower"),
    "empty_rate": Metric("empty", "lower"),
    "chair_s": Metric("CHAIR_s", "lower", hallucination=True),
    "chair_i": Metric("CHAIR_i", "lower", hallucination=True),
    "length": Metric("length", None, unit="words"),
    "chair": Metric("CHAIR", "lower", hallucination=True),
    "hal": Metric("Hal", "lower", hallucination=True),
    "cog": Metric("Cog", "lower", hallucination=True),
    "cover": Metric("Cover", "higher"),
    "no_precision": Metric("precision of No", "higher"),
    "no_recall": Metric("recall of No", "higher"),
    "no_f1": Metric("F1 of No", "higher"),
    "exact": Metric("exact", "higher"),
    "relaxed": Metric("relaxed", "higher"),
    "caught": Metric("unsuitable caught", "higher"),
    "refused_suitable": Metric("suitable refused", "lower"),
    "set_precision": Metric("precision", "higher"),
    "set_f1": Metric("F1 of objects", "higher"),
    "bleu": Metric("BLEU", "higher"),
    "rouge_l": Metric("ROUGE-L", "higher"),
    "meteor": Metric("METEOR", "higher"),
    "majority": Metric("majority label", None),
    "dirty_label_rate": Metric("dirty labels", None),
    "unusable_label_rate": Metric("unusable labels", None),
    "abstention_rate": Metric("abstains", None),
    "rating": Metric("rating of 6", "higher", unit="rating"),
    "hallucination_rate": Metric("hallucinated", "lower", hallucination=True),
    "claim_error_rate": Metric("false claims", "lower", hallucination=True),
    "claims": Metric("claims", None, unit="claims"),
    "unread_replies": Metric("judge unread", "lower"),
}
"""Every score by name."""

_LABELS = {
    "pope_random": "POPE random",
    "pope_popular": "POPE popular",
    "pope_adversarial": "POPE adversarial",
    "caption": "Captions",
    "color": "Colour",
    "count": "Count",
    "relation": "Relation",
}
"""Names for people, in the order of every table."""


@dataclass(frozen=True, slots=True)
class Tally:
    """The per-item counts of one benchmark; item i of every ratio is `example_ids[i]`."""

    example_ids: tuple[str, ...]
    image_ids: tuple[str, ...]
    ratios: dict[str, Ratio]


def benchmark_label(benchmark: str) -> str:
    """A benchmark's name for people: `pope_random` -> `POPE random`."""
    return _LABELS.get(benchmark, benchmark.replace("_", " ").capitalize())


def tally(
    predictions: Sequence[Prediction],
    *,
    lexicon: Lexicon | Mapping[str, str],
    parser: str,
    published: Published | None = None,
) -> dict[str, Tally]:
    """Per-item counts of every benchmark among `predictions`, items in id order.

    `published` scores what it knows by its own rules; the kind of question decides the rest.
    Raises DataError for an id that comes twice, or a benchmark that mixes kinds.
    """
    words = lexicon if isinstance(lexicon, Lexicon) else Lexicon(lexicon)
    by_benchmark: dict[str, list[Prediction]] = {}
    for prediction in sorted(predictions, key=lambda p: p.example.example_id):
        if not prediction.error:
            by_benchmark.setdefault(prediction.benchmark, []).append(prediction)
    known = list(_LABELS)
    order = sorted(by_benchmark, key=lambda name: (known.index(name) if name in known else len(known), name))
    return {name: _tally_one(name, by_benchmark[name], words, parser, published) for name in order}


def score(
    predictions: Sequence[Prediction],
    *,
    lexicon: Lexicon | Mapping[str, str],
    settings: EvaluationConfig | None = None,
) -> list[dict[str, Any]]:
    """Rows {benchmark, metric, value, low, high, n} for every benchmark among `predictions`."""
    chosen = settings or EvaluationConfig()
    return [
        {
            "benchmark": benchmark,
            "metric": metric,
            **asdict(
                estimate(
                    ratio,
                    counts.image_ids,
                    resamples=chosen.bootstrap,
                    level=chosen.confidence,
                    seed=chosen.seed,
                )
            ),
        }
        for benchmark, counts in tally(predictions, lexicon=lexicon, parser=chosen.parser).items()
        for metric, ratio in counts.ratios.items()
    ]


def _tally_one(
    benchmark: str, rows: list[Prediction], lexicon: Lexicon, parser: str, published: Published | None
) -> Tally:
    ids = tuple(row.example.example_id for row in rows)
    if len(set(ids)) < len(ids):
        twice = next(a for a, b in zip(ids, ids[1:], strict=False) if a == b)
        raise DataError(expected=f"each example of {benchmark} once", got=f"{twice!r} more than once")
    kinds = sorted({row.example.kind for row in rows})
    if len(kinds) > 1:
        raise DataError(
            expected=f"one kind of question in benchmark {benchmark!r}",
            got=" and ".join(kinds),
            hint="give each kind its own `split`",
        )
    ratios = published.ratios(rows, parser) if published is not None else None
    if ratios is None:
        ratios = _ratios(rows, lexicon, parser)
    return Tally(ids, tuple(row.example.image_id for row in rows), ratios)


def _ratios(rows: list[Prediction], lexicon: Lexicon, parser: str) -> dict[str, Ratio]:
    answers = [row.answer for row in rows]
    truths = [row.example.answer for row in rows]
    kind = rows[0].example.kind
    match kind:
        case "yes_no":
            return yes_no.tally(answers, truths, parser=parser)
        case "caption":
            return objects.tally(answers, [row.example.objects for row in rows], lexicon)
        case "relation" if all(yes_no.parse(t, "strict") != "unparsed" for t in truths):
            counts = yes_no.tally(answers, truths, parser=parser)
            return {name: counts[name] for name in ("accuracy", "yes_ratio", "unparsed_rate")}
        case "color" | "count" | "relation" | "open":
            return short_answer.tally(answers, truths)
        case _:
            assert_never(kind)
