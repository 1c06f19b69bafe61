"""Promote or not: hallucination must have fallen for sure, and nothing else may have broken.

Two kinds of rules. `must_fall`: the interval of the difference lies below 0.
`margin`: the score got no worse than allowed (point estimate). A score that was
defined before and is not any more breaks its margin. Yes/no accuracy that was no better
than a coin's before has nothing to lose: its margin rule passes and says so.
The decision names its rule.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from sightline.config.evaluation import EvaluationConfig, GateConfig
from sightline.errors import ConfigError
from sightline.evaluation.predictions import Prediction
from sightline.evaluation.scoring import METRICS, benchmark_label, tally
from sightline.evaluation.wording import amount, is_share, metric_label, number, unit
from sightline.metrics.objects import Lexicon
from sightline.records import Example


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule and how it came out; `detail` is the sentence with the numbers."""

    kind: Literal["must_fall", "margin"]
    benchmark: str
    metric: str
    passed: bool
    detail: str

    @property
    def name(self) -> str:
        """`must_fall caption.chair_s`."""
        return f"{self.kind} {self.benchmark}.{self.metric}"


@dataclass(frozen=True, slots=True)
class Decision:
    """`decided_by` is the rule that settled it: the first that failed, or `every rule`."""

    promote: bool
    decided_by: str
    sentence: str
    rules: tuple[Rule, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain dicts and lists, as `report.json` holds them under `verdict`."""
        return {
            "promote": self.promote,
            "decided_by": self.decided_by,
            "sentence": self.sentence,
            "rules": [asdict(rule) | {"name": rule.name} for rule in self.rules],
        }


def check_measurable(
    examples: Sequence[Example], *, lexicon: Lexicon | Mapping[str, str], settings: EvaluationConfig
) -> None:
    """Before any work: can these examples be scored, and will the gate find what it asks for?

    Scores the true answers as if a model had given them. Raises DataError for truths that
    are no truths, doubled ids or mixed kinds, ConfigError for a `must_fall` nobody will measure.
    """
    perfect = [Prediction(example, example.answer) for example in examples]
    tallies = tally(perfect, lexicon=lexicon, parser=settings.parser)
    measured = {f"{name}.{metric}" for name, counts in tallies.items() for metric in counts.ratios}
    _require(settings.gate.must_fall, measured)


def decide(comparison: Sequence[Mapping[str, Any]], settings: GateConfig | None = None) -> Decision:
    """Judge a comparison (rows of `compare`). Raises ConfigError for a `must_fall` nobody measured."""
    chosen = settings or GateConfig()
    by_name = {f"{row['benchmark']}.{row['metric']}": row for row in comparison}
    _require(chosen.must_fall, by_name)
    falls = [_fell(by_name[name]) for name in chosen.must_fall]
    margins = [
        rule
        for name, row in by_name.items()
        if name not in chosen.must_fall
        and (rule := _within_margin(row, chosen, guessed=_guessed(row, by_name))) is not None
    ]
    enough = all(r.passed for r in falls) if chosen.need == "all" else any(r.passed for r in falls)
    failed = [r for r in (*(falls if not enough else ()), *margins) if not r.passed]
    if failed:
        sentence = f"Not promoted: {failed[0].detail}."
        if others := len(failed) - 1:
            sentence += f" {others} other rule{'s' * (others > 1)} failed too."
        return Decision(False, failed[0].name, sentence, (*falls, *margins))
    fallen = [r for r in falls if r.passed]
    sentence = "Promoted: " + "; ".join(r.detail for r in fallen) + "; nothing else left its margin."
    return Decision(True, "every rule", sentence, (*falls, *margins))


def _require(must_fall: Sequence[str], measured: Collection[str]) -> None:
    if missing := [name for name in must_fall if name not in measured]:
        raise ConfigError(
            expected=f"evaluation.gate.must_fall among the measured scores ({', '.join(sorted(measured))})",
            got=", ".join(missing),
            hint="name scores of your own benchmarks, each as benchmark.metric",
        )


def _fell(row: Mapping[str, Any]) -> Rule:
    high = number(row["ci_high"])
    passed = high < 0  # False for nan: what is undefined did not fall
    if math.isnan(high):
        detail = f"{_label(row)} has no interval"
    else:
        rose = number(row["ci_low"]) > 0
        verb = "fell" if passed else "rose" if rose else "did not surely fall"
        detail = f"{_label(row)} {verb}: {_change(row)}"
    return Rule("must_fall", row["benchmark"], row["metric"], passed, detail)


def _guessed(row: Mapping[str, Any], by_name: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether yes/no accuracy was no better than a coin's before, within its noise (5% level)."""
    accuracy = by_name.get(f"{row['benchmark']}.accuracy")
    is_yes_no = f"{row['benchmark']}.yes_ratio" in by_name
    if accuracy is None or not is_yes_no or row["metric"] not in ("accuracy", "f1"):
        return False
    return (number(accuracy["before"]) - 0.5) * math.sqrt(accuracy["n"]) <= 1.96 * 0.5


def _within_margin(row: Mapping[str, Any], gate: GateConfig, *, guessed: bool) -> Rule | None:
    """The margin rule of a score; None where it has none, or was undefined from the start."""
    allowed = _margin(row, gate)
    before, delta = number(row["before"]), number(row["delta"])
    if allowed is None or math.isnan(before):
        return None
    if math.isnan(delta):
        return Rule("margin", row["benchmark"], row["metric"], False, f"{_label(row)} became undefined")
    if guessed:
        detail = f"{_label(row)} was no better than a coin's before: {_change(row)}"
        return Rule("margin", row["benchmark"], row["metric"], True, detail)
    lower_is_better = METRICS[row["metric"]].better == "lower"
    worse = delta if lower_is_better else -delta
    # Rounded, because 0.80 - 0.78 is a little more than 0.02.
    passed = round(worse - allowed, 9) <= 0
    limit = f"{allowed * 100:.1f} points" if is_share(row["metric"]) else f"{allowed:.1f} words"
    verb = "stayed within" if passed else "left"
    detail = f"{_label(row)} {verb} its margin of {limit}: {_change(row)}"
    return Rule("margin", row["benchmark"], row["metric"], passed, detail)


def _margin(row: Mapping[str, Any], gate: GateConfig) -> float | None:
    """The most this score may get worse, in its own unit; None = it may do as it likes."""
    metric = row["metric"]
    match metric:
        case "accuracy" | "f1":
            return gate.accuracy_margin
        case "recall" if row["benchmark"] == "caption":
            return gate.recall_margin
        case "length":
            return gate.length_margin * number(row["before"])
        case "unparsed_rate" | "empty_rate":
            return gate.unparsed_margin
        case _:
            return gate.hallucination_margin if metric in METRICS and METRICS[metric].hallucination else None


def _label(row: Mapping[str, Any]) -> str:
    return f"{benchmark_label(row['benchmark'])} {metric_label(row['metric'])}"


def _change(row: Mapping[str, Any]) -> str:
    """`+1.2 points (-0.3 to +2.7)`."""
    metric = row["metric"]
    text = f"{amount(row['delta'], metric, signed=True)} {unit(metric)}"
    if math.isnan(number(row["ci_low"])):
        return text
    low, high = (amount(row[bound], metric, signed=True) for bound in ("ci_low", "ci_high"))
    return f"{text} ({low} to {high})"
