"""Score a matrix of models and rows on benchmarks, and compare each row with greedy.

All numbers come from `Matched` answers alone, so scoring can be repeated without a model, to the
last digit. A comparison is paired (item by item, images resampled), refused unless both sides
answered under the same conditions, and corrected for how many there are: one family is one score
over all models, rows and benchmarks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from sightline.config.benchmark import GREEDY, BenchmarkConfig
from sightline.evaluation.answers import Answered, Matched
from sightline.evaluation.fairness import differences
from sightline.evaluation.predictions import Prediction, is_long
from sightline.evaluation.published import Published
from sightline.evaluation.scoring import METRICS, Tally, tally
from sightline.metrics.bootstrap import Ratio, estimate, paired_difference
from sightline.metrics.objects import Lexicon
from sightline.metrics.significance import adjust, mcnemar, normal_p
from sightline.records import Example

Verdict = Literal["better", "worse", "unclear", "neutral"]


@dataclass(frozen=True, slots=True)
class Side:
    """One row's answers to one dataset, by one model. Greedy is the row called `greedy`."""

    model: str
    row: str
    dataset: str
    matched: Matched

    @property
    def is_baseline(self) -> bool:
        return self.row == GREEDY

    def key(self) -> dict[str, str]:
        """The columns by which tables find it."""
        return {"model": self.model, "row": self.row, "dataset": self.dataset}


def check_scorable(examples: Sequence[Example], lexicon: Lexicon, published: Published | None = None) -> None:
    """Before any work: score the true answers as if a model had given them.

    Raises DataError for truths that are no truths, doubled ids, or a benchmark of mixed kinds.
    """
    answers = [Prediction(e, e.answer) for e in examples]
    tally(answers, lexicon=lexicon, parser="strict", published=published)


def measure(
    sides: Sequence[Side], config: BenchmarkConfig, lexicon: Lexicon, published: Published | None = None
) -> dict[str, Any]:
    """{scores, comparisons, refused, costs, accounts}: lists of plain rows, in the order of `sides`."""
    rules = _Rules(config, lexicon, published)
    baselines = {(s.model, s.dataset): s for s in sides if s.is_baseline}
    scores: list[dict[str, Any]] = []
    comparisons: list[dict[str, Any]] = []
    refused: list[dict[str, Any]] = []
    for side in sides:
        scores += _scores(side, rules)
        if side.is_baseline:
            continue
        baseline = baselines.get((side.model, side.dataset))
        odd = _unfair(baseline, side)
        if odd:
            refused.append(side.key() | {"reasons": odd})
        elif baseline is not None:
            comparisons += _compare(baseline, side, rules)
    _correct(comparisons, config)
    return {
        "scores": scores,
        "comparisons": comparisons,
        "refused": refused,
        "costs": [side.key() | cost(side.matched) for side in sides],
        "accounts": [side.key() | side.matched.account.to_json() for side in sides],
    }


def cost(matched: Matched) -> dict[str, Any]:
    """What a token took, on long answers where there are any: there the prompt weighs least.

    {on, tokens, seconds, ms_per_token, passes_per_token, peak_mib}; nan where nothing was measured.
    """
    long_ids = {p.example.example_id for p in matched.predictions if is_long(p.example)}
    long = [a for a in matched.costs if a.example_id in long_ids]
    chosen = long if _tokens(long) else matched.costs
    tokens, seconds = _tokens(chosen), math.fsum(a.seconds for a in chosen)
    peaks = [a.peak_mib for a in matched.costs if not math.isnan(a.peak_mib)]
    return {
        "on": "long answers" if chosen is long else "short answers",
        "tokens": tokens,
        "seconds": seconds,
        "ms_per_token": 1000 * seconds / tokens if tokens else math.nan,
        "passes_per_token": math.fsum(a.passes for a in chosen) / tokens if tokens else math.nan,
        "peak_mib": max(peaks, default=math.nan),
    }


def verdict(row: Mapping[str, Any], confidence: float) -> Verdict:
    """What a comparison says after correction; `neutral` where neither way is better."""
    better = METRICS[row["metric"]].better if row["metric"] in METRICS else None
    if better is None:
        return "neutral"
    if math.isnan(row["p_adjusted"]) or row["p_adjusted"] >= 1 - confidence or not row["delta"]:
        return "unclear"
    return "better" if (row["delta"] > 0) == (better == "higher") else "worse"


def _tokens(answers: Sequence[Answered]) -> int:
    return sum(a.tokens for a in answers)


def _unfair(baseline: Side | None, side: Side) -> list[str]:
    if baseline is None:
        return ["greedy has not answered this benchmark"]
    return differences(baseline.matched.conditions, side.matched.conditions)


@dataclass(frozen=True, slots=True)
class _Rules:
    """What answers are scored by."""

    config: BenchmarkConfig
    lexicon: Lexicon
    published: Published | None

    def tally(self, predictions: Sequence[Prediction]) -> dict[str, Tally]:
        return tally(predictions, lexicon=self.lexicon, parser=self.config.parser, published=self.published)


def _scores(side: Side, rules: _Rules) -> list[dict[str, Any]]:
    config = rules.config
    return [
        side.key()
        | {"benchmark": benchmark, "metric": metric}
        | asdict(
            estimate(
                ratio,
                counts.image_ids,
                resamples=config.bootstrap,
                level=config.confidence,
                seed=config.seed,
            )
        )
        for benchmark, counts in rules.tally(side.matched.predictions).items()
        for metric, ratio in counts.ratios.items()
    ]


def _compare(baseline: Side, side: Side, rules: _Rules) -> list[dict[str, Any]]:
    """Every score of both on the items that both answered."""
    sides = [s.matched.predictions for s in (baseline, side)]
    failed = {p.example.example_id for predictions in sides for p in predictions if p.error}
    first, second = (
        rules.tally([p for p in predictions if p.example.example_id not in failed]) for predictions in sides
    )
    return [
        side.key()
        | {"benchmark": benchmark, "metric": metric}
        | _difference(metric, before, second[benchmark].ratios[metric], counts.image_ids, rules.config)
        for benchmark, counts in first.items()
        for metric, before in counts.ratios.items()
    ]


def _difference(
    metric: str, before: Ratio, after: Ratio, images: Sequence[str], config: BenchmarkConfig
) -> dict[str, Any]:
    found = paired_difference(
        before, after, images, resamples=config.bootstrap, level=config.confidence, seed=config.seed
    )
    by_image = normal_p(found.delta, found.error)
    by_item = _mcnemar(before, after) if metric == "accuracy" else math.nan
    tests = [p for p in (by_image, by_item) if not math.isnan(p)]
    return {
        "before": found.before,
        "after": found.after,
        "delta": found.delta,
        "relative": found.relative,
        "ci_low": found.low,
        "ci_high": found.high,
        "n": found.n,
        "p_bootstrap": by_image,
        "p_mcnemar": by_item,
        # McNemar takes items for independent, the bootstrap approximates: both must agree.
        "p": max(tests, default=math.nan),
    }


def _mcnemar(before: Ratio, after: Ratio) -> float:
    """On the items that both sides count; a parser that drops an answer drops the item."""
    both_N = (before.denominator_N > 0) & (after.denominator_N > 0)
    return mcnemar(before.numerator_N[both_N] > 0, after.numerator_N[both_N] > 0)


def _correct(comparisons: list[dict[str, Any]], config: BenchmarkConfig) -> None:
    """Add `p_adjusted` and `verdict` to every row; a family is a score over everything else."""
    for metric in {row["metric"] for row in comparisons}:
        family = [row for row in comparisons if row["metric"] == metric]
        adjusted = adjust([row["p"] for row in family], config.correction)
        for row, p_adjusted in zip(family, adjusted, strict=True):
            row["p_adjusted"] = p_adjusted
            row["verdict"] = verdict(row, config.confidence)
            row["family"] = len(family)
