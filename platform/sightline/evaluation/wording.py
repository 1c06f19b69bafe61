"""Numbers and differences in words, the same in the page, the figures and the terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from sightline.evaluation.scoring import METRICS, benchmark_label

Trend = Literal["better", "worse", "unclear", "neutral"]

_SUBJECTS = {
    "false_yes_rate": "false yeses on {}",
    "chair_s": "captions with an invented object",
    "chair_i": "invented mentions",
}


def number(value: float | None) -> float:
    """Rows read back from JSON hold None where nan was."""
    return math.nan if value is None else float(value)


def is_share(metric: str) -> bool:
    """Is the metric a share (0 to 1), rather than a count or a rating? Unknown ones are shares."""
    return metric not in METRICS or METRICS[metric].unit == "share"


def metric_label(metric: str) -> str:
    """A metric's name for people."""
    return METRICS[metric].label if metric in METRICS else metric.replace("_", " ")


def amount(value: float | None, metric: str, *, signed: bool = False) -> str:
    """`31.2%`, or signed in points `-12.8` (with a true minus); a dash when undefined."""
    v = number(value)
    if math.isnan(v):
        return "\N{EN DASH}"
    scaled = v * (100 if is_share(metric) else 1)
    if signed:
        text = f"{scaled:+.1f}".replace("-", "\N{MINUS SIGN}")
        return "0.0" if text in ("+0.0", "\N{MINUS SIGN}0.0") else text
    return f"{scaled:.1f}%" if is_share(metric) else f"{scaled:.1f}"


def unit(metric: str) -> str:
    """Of a difference: points of a share, or what is counted."""
    return "points" if is_share(metric) else METRICS[metric].unit


def trend(row: Mapping[str, Any]) -> Trend:
    """Is the whole interval on one side of 0, and is that side good?"""
    better = METRICS[row["metric"]].better if row["metric"] in METRICS else None
    if better is None:
        return "neutral"
    low, high = number(row["ci_low"]), number(row["ci_high"])
    if high < 0:
        return "better" if better == "lower" else "worse"
    if low > 0:
        return "worse" if better == "lower" else "better"
    return "unclear"


def headline(comparison: Sequence[Mapping[str, Any]], names: Sequence[str]) -> str:
    """One sentence on the scores in `names` (`benchmark.metric`): what fell, from what to what."""
    by_name = {f"{row['benchmark']}.{row['metric']}": row for row in comparison}
    clauses = [_clause(by_name[name]) for name in names if name in by_name]
    if not clauses:
        return "Nothing was compared."
    text, last_verb = "", ""
    for subject, verb, change in clauses:
        # "A fell from 2 to 1, B from 4 to 3", but "A fell from 2 to 1 and B rose from 3 to 4".
        if text:
            text += ", " if verb == last_verb else " and "
        text += f"{subject} {change}" if verb == last_verb else f"{subject} {verb} {change}"
        last_verb = verb
    return f"{text[0].upper()}{text[1:]}."


def _clause(row: Mapping[str, Any]) -> tuple[str, str, str]:
    """Subject, verb and the rest."""
    metric = row["metric"]
    default = f"{{}} {metric_label(metric)}"
    subject = _SUBJECTS.get(metric, default).format(benchmark_label(row["benchmark"]))
    change = f"from {amount(row['before'], metric)} to {amount(row['after'], metric)}"
    if math.isnan(number(row["delta"])):
        return subject, "cannot", "be compared"
    if number(row["ci_high"]) < 0:
        return subject, "fell", change
    if number(row["ci_low"]) > 0:
        return subject, "rose", change
    return subject, "went", f"{change} (within chance)"
