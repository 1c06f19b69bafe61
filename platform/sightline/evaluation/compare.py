"""Two models on the same items: differences with paired intervals, clustered by image.

A comparison over different items is no comparison, so it is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sightline.config.evaluation import EvaluationConfig
from sightline.errors import DataError
from sightline.evaluation.predictions import Prediction
from sightline.evaluation.scoring import tally
from sightline.metrics.bootstrap import Ratio, paired_difference
from sightline.metrics.objects import Lexicon


def compare(
    before: Sequence[Prediction],
    after: Sequence[Prediction],
    *,
    lexicon: Lexicon | Mapping[str, str],
    settings: EvaluationConfig | None = None,
) -> list[dict[str, Any]]:
    """Rows {benchmark, metric, before, after, delta, relative, ci_low, ci_high, n}.

    delta = after - before; `relative` = delta / before. An item that failed on either
    side is left out of both. Raises DataError when the sides hold different items, or
    the same ids with other questions, truths or images.
    """
    chosen = settings or EvaluationConfig()
    check_same_items(before, after)
    failed = {p.example.example_id for p in (*before, *after) if p.error}
    words = lexicon if isinstance(lexicon, Lexicon) else Lexicon(lexicon)
    first, second = (
        tally([p for p in side if p.example.example_id not in failed], lexicon=words, parser=chosen.parser)
        for side in (before, after)
    )
    return [
        _row(benchmark, metric, ratio, second[benchmark].ratios[metric], counts.image_ids, chosen)
        for benchmark, counts in first.items()
        for metric, ratio in counts.ratios.items()
    ]


def _row(
    benchmark: str,
    metric: str,
    before: Ratio,
    after: Ratio,
    image_ids: Sequence[str],
    settings: EvaluationConfig,
) -> dict[str, Any]:
    found = paired_difference(
        before,
        after,
        image_ids,
        resamples=settings.bootstrap,
        level=settings.confidence,
        seed=settings.seed,
    )
    return {
        "benchmark": benchmark,
        "metric": metric,
        "before": found.before,
        "after": found.after,
        "delta": found.delta,
        "relative": found.relative,
        "ci_low": found.low,
        "ci_high": found.high,
        "n": found.n,
    }


def check_same_items(before: Sequence[Prediction], after: Sequence[Prediction]) -> None:
    """Raise DataError, naming the items, unless both sides answer exactly the same questions."""
    first, second = ({p.example.example_id: p for p in side} for side in (before, after))
    if len(first) != len(before) or len(second) != len(after):
        raise DataError(
            expected="each example once a side",
            got=f"{len(before)} and {len(after)} rows for {len(first)} and {len(second)} ids",
        )
    if only := sorted(first.keys() ^ second.keys()):
        raise DataError(
            expected="the same examples before and after",
            got=f"{len(only)} that only one side holds ({', '.join(only[:3])}{', ...' if only[3:] else ''})",
            hint="predict both models on the same examples file",
        )
    changed = [i for i in sorted(first) if _asked(first[i]) != _asked(second[i])]
    if changed:
        raise DataError(
            expected="the same question, truth and image behind each id",
            got=f"{len(changed)} ids that differ ({', '.join(changed[:3])})",
            hint="predict both models on the same examples file",
        )


def _asked(prediction: Prediction) -> tuple[Any, ...]:
    """What must be equal for two answers to be comparable. Where the image file lies may differ."""
    e = prediction.example
    return (e.image_id, e.sha256, e.question, e.context, e.kind, e.split, e.answer, e.objects)
