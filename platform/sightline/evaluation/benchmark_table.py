"""The table of a benchmark: which columns, which words in each cell; as Markdown for a README.

A cell is a value with its interval. What is better than greedy for sure (after correction) is
bold, what is worse for sure has a dagger. The page draws the same columns.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sightline.config.benchmark import GREEDY
from sightline.evaluation.scoring import METRICS, benchmark_label
from sightline.evaluation.wording import amount, metric_label, number

DASH = "\N{EN DASH}"
_CAPTIONS = ("chair_s", "chair_i", "recall", "length")
_YES_NO = ("accuracy", "f1", "yes_ratio")
_RATED = ("rating", "hallucination_rate")
COSTS = ("ms_per_token", "passes_per_token", "peak_mib")


@dataclass(frozen=True, slots=True)
class Column:
    """One score of one benchmark."""

    dataset: str
    benchmark: str
    metric: str
    group: str
    """The benchmark for people, with its dataset where several are measured."""

    @property
    def label(self) -> str:
        """The score for people, short enough for a column."""
        return "yes" if self.metric == "yes_ratio" else metric_label(self.metric)

    def find(self, rows: Sequence[Mapping[str, Any]], model: str, row: str) -> Mapping[str, Any] | None:
        """The score or comparison that stands in this column for a row."""
        wanted = (model, row, self.dataset, self.benchmark, self.metric)
        keys = ("model", "row", "dataset", "benchmark", "metric")
        return next((r for r in rows if tuple(r[k] for k in keys) == wanted), None)


def columns(report: Mapping[str, Any]) -> list[Column]:
    """The scores worth a column: three of a yes/no benchmark, four of captions, two of rated answers,
    else the first one."""
    found: dict[tuple[str, str], list[str]] = {}
    for score in report["scores"]:
        metrics = found.setdefault((score["dataset"], score["benchmark"]), [])
        if score["metric"] not in metrics:
            metrics.append(score["metric"])
    several = len(report["benchmarks"]) > 1
    return [
        Column(dataset, benchmark, metric, _group(dataset, benchmark, several))
        for (dataset, benchmark), metrics in found.items()
        for metric in _chosen(metrics)
    ]


def total_cost(report: Mapping[str, Any], model: str, row: str) -> dict[str, float]:
    """What a row cost over all benchmarks: means by token, the highest peak; nan where unknown."""
    costs = [c for c in report["costs"] if (c["model"], c["row"]) == (model, row) and c["tokens"]]
    tokens = sum(c["tokens"] for c in costs)
    peaks = [number(c["peak_mib"]) for c in costs if c["peak_mib"] is not None]
    if not tokens:
        return dict.fromkeys(COSTS, math.nan)
    return {
        "ms_per_token": 1000 * sum(number(c["seconds"]) for c in costs) / tokens,
        "passes_per_token": sum(number(c["passes_per_token"]) * c["tokens"] for c in costs) / tokens,
        "peak_mib": max(peaks, default=math.nan),
    }


def markdown(report: Mapping[str, Any]) -> str:
    """The tables of `report.md`: yes/no benchmarks, the others, and what a token costs."""
    wanted = columns(report)
    halves = ([c for c in wanted if _is_yes_no(c, wanted)], [c for c in wanted if not _is_yes_no(c, wanted)])
    blocks = [_table(report, half, costs=half is halves[1] or not halves[1]) for half in halves if half]
    measure = report["measure"]
    correction = measure["correction"].replace("_", "-")
    note = (
        f"Intervals: {measure['confidence']:.0%}, bootstrap by {measure['clustered_by']}. **Bold**: better "
        f"than greedy for sure, \N{DAGGER}: worse for sure (paired, {correction} over {measure['family']}). "
        f"Yes/no answers read by `{measure['parser']}`."
    )
    return "\n\n".join([*blocks, note]) + "\n"


def cost_texts(costs: Mapping[str, float]) -> dict[str, str]:
    """A row's costs as text; a dash where nothing is known."""
    digits = {"ms_per_token": 2, "passes_per_token": 2, "peak_mib": 0}
    return {name: DASH if math.isnan(costs[name]) else f"{costs[name]:.{digits[name]}f}" for name in COSTS}


def _table(report: Mapping[str, Any], wanted: Sequence[Column], *, costs: bool) -> str:
    head = ["method", *(f"{c.group}: {c.label}" for c in wanted)]
    head += ["ms/token", "passes/token", "peak MiB"] if costs else []
    lines = [head, ["---", *["---:"] * (len(head) - 1)]]
    for model in report["models"]:
        for row in report["rows"]:
            name = row["row"] if len(report["models"]) == 1 else f"{model}: {row['row']}"
            if row["status"] != "measured":
                lines.append([name, row["reason"] or row["status"], *[""] * (len(head) - 2)])
                continue
            cells = [_cell(report, column, model, row["row"]) for column in wanted]
            spent = cost_texts(total_cost(report, model, row["row"])).values() if costs else ()
            lines.append([name, *cells, *spent])
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _cell(report: Mapping[str, Any], column: Column, model: str, row: str) -> str:
    score = column.find(report["scores"], model, row)
    if score is None:
        return DASH
    text = amount(score["value"], column.metric)
    compared = None if row == GREEDY else column.find(report["comparisons"], model, row)
    said = compared["verdict"] if compared else ""
    text = f"**{text}**" if said == "better" else f"{text}\N{DAGGER}" if said == "worse" else text
    return f"{text} ({interval(score, column.metric)})" if score["low"] is not None else text


def interval(score: Mapping[str, Any], metric: str) -> str:
    """`85.2-88.9` with an en dash, without the unit that the value has."""
    return DASH.join(amount(score[end], metric).rstrip("%") for end in ("low", "high"))


def _chosen(metrics: Sequence[str]) -> list[str]:
    for wanted in (_CAPTIONS, _YES_NO, _RATED):
        if wanted[0] in metrics and wanted[1] in metrics:
            return [m for m in wanted if m in metrics]
    return [m for m in metrics if m in METRICS][:1] or list(metrics[:1])


def _is_yes_no(column: Column, among: Sequence[Column]) -> bool:
    own = {c.metric for c in among if (c.dataset, c.benchmark) == (column.dataset, column.benchmark)}
    return set(_YES_NO) <= own


def _group(dataset: str, benchmark: str, several: bool) -> str:
    label = benchmark_label(benchmark)
    return f"{dataset}, {label}" if several else label
