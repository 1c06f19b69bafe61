"""The page of a benchmark's report: one file that needs nothing beside it, in light and dark.

Everything is derived from the report's dict, so an old report.json can be rendered again. Text
that came from models or data is escaped by the template engine, without exception.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from sightline.config.benchmark import GREEDY
from sightline.evaluation.benchmark_appendix import correction, every, faults, manifest, p_text, row_name
from sightline.evaluation.benchmark_table import (
    COSTS,
    DASH,
    Column,
    columns,
    cost_texts,
    interval,
    total_cost,
)
from sightline.evaluation.report import segments
from sightline.evaluation.scoring import METRICS, benchmark_label
from sightline.evaluation.thumbnails import image_data_uri
from sightline.evaluation.wording import amount, metric_label
from sightline.look import pages

_COST_LABELS = {
    "ms_per_token": ("ms/token", "wall time of generating, by generated token"),
    "passes_per_token": (
        "passes",
        "sequences through the decoder, by generated token; a shared prefix counts once",
    ),
    "peak_mib": ("MiB", "highest memory above the loaded model"),
}


def render_html(report: Mapping[str, Any]) -> str:
    """The page, self-contained. Images that cannot be read get a placeholder."""
    benchmarks = report["benchmarks"].values()
    return (
        pages("sightline.evaluation")
        .get_template("benchmark.html.jinja")
        .render(
            report=report,
            counts=f"{len(report['rows'])} rows, {sum(b['questions'] for b in benchmarks):,} questions about "
            f"{sum(b['images'] for b in benchmarks):,} images",
            correction=correction(report),
            toy=any(model["source"] == "world" for model in report["models"].values()),
            tables=[_table(report, model) for model in report["models"]],
            examples=[_example(shown) for shown in report["examples"]],
            refused=[
                f"{row_name(report, r)} on {r['dataset']}: not compared; {'; '.join(r['reasons'])}"
                for r in report["refused"]
            ],
            faults=faults(report),
            every=every(report),
            manifest=manifest(report),
            config_text=json.dumps(report["config"], indent=2, ensure_ascii=False),
        )
    )


def _table(report: Mapping[str, Any], model: str) -> dict[str, Any]:
    """One model's table and figures: POPE and captions, then the cost, then all other benchmarks."""
    from sightline.evaluation import benchmark_figures as figures

    wanted = columns(report)
    names = {(c.dataset, c.benchmark, c.metric) for c in wanted}
    lead = [c for c in wanted if any((c.dataset, c.benchmark, m) in names for m in ("f1", "chair_s"))]
    rest = [c for c in wanted if c not in lead]
    groups = [*_groups(lead), {"label": "Cost", "span": len(COSTS)}, *_groups(rest)]
    costs = [
        {"label": label, "title": title, "better": "lower", "first": i == 0}
        for i, (label, title) in enumerate(_COST_LABELS.values())
    ]
    return {
        "model": model,
        "groups": groups,
        "columns": [*_heads(lead), *costs, *_heads(rest)],
        "rows": [_row(report, row, model, lead, rest) for row in report["rows"]],
        "forest": figures.forest_svg(report, model) if report["comparisons"] else "",
        "pope": figures.pope_svg(report, model),
        "captions": figures.captions_svg(report, model),
    }


def _groups(among: Sequence[Column]) -> list[dict[str, Any]]:
    """The benchmarks above the columns, and how many columns each spans."""
    spans = ((key[1], len(list(own))) for key, own in groupby(among, key=_benchmark))
    return [{"label": label, "span": span} for label, span in spans]


def _heads(among: Sequence[Column]) -> list[dict[str, Any]]:
    return [
        {
            "label": c.label,
            "title": f"{c.group}, {metric_label(c.metric)}",
            "better": METRICS[c.metric].better if c.metric in METRICS else None,
            "first": first,
        }
        for c, first in _marked(among)
    ]


def _benchmark(column: Column) -> tuple[str, str]:
    return column.dataset, column.group


def _marked(among: Sequence[Column]) -> list[tuple[Column, bool]]:
    """Each column, and whether it is its benchmark's first."""
    return [(c, i == 0 or _benchmark(among[i - 1]) != _benchmark(c)) for i, c in enumerate(among)]


def _row(
    report: Mapping[str, Any],
    row: Mapping[str, Any],
    model: str,
    lead: Sequence[Column],
    rest: Sequence[Column],
) -> dict[str, Any]:
    name = row["row"]
    before, after = (
        [_cell(report, column, model, name) | {"first": first} for column, first in _marked(among)]
        for among in (lead, rest)
    )
    return {
        "name": name,
        "mitigations": row["mitigations"],
        "status": row["status"],
        "reason": row["reason"],
        "greedy": name == GREEDY,
        "cells": [*before, *_cost_cells(report, model, name), *after],
    }


def _cost_cells(report: Mapping[str, Any], model: str, name: str) -> list[dict[str, Any]]:
    """What the row cost, and how many times greedy's cost that is."""
    costs, base = total_cost(report, model, name), total_cost(report, model, GREEDY)
    texts = cost_texts(costs)
    known = {key: texts[key] != DASH and base[key] > 0 and name != GREEDY for key in COSTS}
    return [
        {
            "value": None if texts[key] == DASH else costs[key],
            "text": texts[key],
            "below": f"\N{MULTIPLICATION SIGN}{costs[key] / base[key]:.2f}" if known[key] else "",
            "verdict": "",
            "note": "",
            "first": i == 0,
        }
        for i, key in enumerate(COSTS)
    ]


def _cell(report: Mapping[str, Any], column: Column, model: str, row: str) -> dict[str, Any]:
    score = column.find(report["scores"], model, row)
    if score is None:
        return {"value": None, "text": DASH, "below": "", "verdict": "", "note": ""}
    compared = column.find(report["comparisons"], model, row)
    return {
        "value": score["value"],
        "text": amount(score["value"], column.metric),
        "below": interval(score, column.metric) if score["low"] is not None else "",
        "verdict": compared["verdict"] if compared else "",
        "note": _note(compared, column.metric) if compared else "",
    }


def _note(compared: Mapping[str, Any], metric: str) -> str:
    """What hovers over a cell: the difference from greedy with its interval and p-values."""
    delta, low, high = (amount(compared[key], metric, signed=True) for key in ("delta", "ci_low", "ci_high"))
    chance = f"p {p_text(compared['p'])}, corrected {p_text(compared['p_adjusted'])}"
    return f"{delta} against greedy ({low} to {high}), {chance}"


def _example(shown: Mapping[str, Any]) -> dict[str, Any]:
    said = [
        {"segments": segments(a["text"], a["wrong"]), "rows": ", ".join(a["rows"])} for a in shown["answers"]
    ]
    return dict(shown) | {
        "image": image_data_uri(shown["image_uri"]),
        "label": benchmark_label(shown["benchmark"]),
        "said": said,
    }
