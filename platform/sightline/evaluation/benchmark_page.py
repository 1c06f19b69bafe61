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
from sightline.evaluation.wording import amount, metric_label, number

_COST_LABELS = {
    "ms_per_token": ("ms/token", "wall time of generating, by generated token"),
    "passes_per_token": (
        "passes",
        "sequences through the decoder, by generated token; a shared prefix counts once",
    ),
    "peak_mib": ("MiB", "highest memory above the loaded model"),
}
_FAULTS = (
    "failed",
    "missing",
    "doubled",
    "foreign",
    "other prompt",
    "other conditions",
    "unreadable",
    "empty",
    "cut off",
)


def render_html(report: Mapping[str, Any]) -> str:
    """The page, self-contained. Images that cannot be read get a placeholder."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    pages = Environment(
        loader=PackageLoader("sightline.evaluation", "page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    benchmarks = report["benchmarks"].values()
    return pages.get_template("benchmark.html.jinja").render(
        report=report,
        counts=f"{len(report['rows'])} rows, {sum(b['questions'] for b in benchmarks):,} questions about "
        f"{sum(b['images'] for b in benchmarks):,} images",
        correction=_correction(report),
        toy=any(model["source"] == "world" for model in report["models"].values()),
        tables=[_table(report, model) for model in report["models"]],
        examples=[_example(shown) for shown in report["examples"]],
        refused=[
            f"{_name(report, r)} on {r['dataset']}: not compared; {'; '.join(r['reasons'])}"
            for r in report["refused"]
        ],
        faults=_faults(report),
        every=_every(report),
        manifest=_manifest(report),
        config_text=json.dumps(report["config"], indent=2, ensure_ascii=False),
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
    chance = f"p {_p(compared['p'])}, corrected {_p(compared['p_adjusted'])}"
    return f"{delta} against greedy ({low} to {high}), {chance}"


def _p(value: float | None) -> str:
    return DASH if value is None else "< 0.0001" if value < 1e-4 else f"{value:.4f}"


def _example(shown: Mapping[str, Any]) -> dict[str, Any]:
    said = [
        {"segments": segments(a["text"], a["wrong"]), "rows": ", ".join(a["rows"])} for a in shown["answers"]
    ]
    return dict(shown) | {
        "image": image_data_uri(shown["image_uri"]),
        "label": benchmark_label(shown["benchmark"]),
        "said": said,
    }


def _faults(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every kind of fault of every row, the worst kinds first."""
    return [
        {
            "row": _name(report, account),
            "dataset": account["dataset"],
            "kind": kind,
            "count": account["counts"][kind],
            "asked": account["asked"],
            "names": ", ".join(account["named"][kind])
            + (", …" if account["counts"][kind] > len(account["named"][kind]) else ""),
        }
        for kind in _FAULTS
        for account in report["accounts"]
        if kind in account["counts"]
    ]


def _every(report: Mapping[str, Any]) -> dict[str, Any]:
    """All scores with all differences, for the long table at the end."""
    keys = ("model", "row", "dataset", "benchmark", "metric")
    compared = {tuple(c[k] for k in keys): c for c in report["comparisons"]}
    rows = []
    for score in report["scores"]:
        metric, found = score["metric"], compared.get(tuple(score[k] for k in keys), {})
        texts = [
            _plain(_name(report, score)),
            _plain(score["dataset"]),
            _plain(benchmark_label(score["benchmark"])),
            _plain(metric_label(metric)),
            {"v": _sortable(score["value"]), "text": amount(score["value"], metric), "verdict": ""},
            _plain(interval(score, metric) if score["low"] is not None else ""),
            {
                "v": _sortable(found.get("delta")),
                "text": amount(found.get("delta"), metric, signed=True) if found else "",
                "verdict": found.get("verdict", ""),
            },
            _plain(
                " to ".join(amount(found[end], metric, signed=True) for end in ("ci_low", "ci_high"))
                if found
                else ""
            ),
            {"v": _sortable(found.get("p")), "text": _p(found["p"]) if found else "", "verdict": ""},
            {
                "v": _sortable(found.get("p_adjusted")),
                "text": _p(found["p_adjusted"]) if found else "",
                "verdict": "",
            },
            {"v": score["n"], "text": f"{score['n']:,}", "verdict": ""},
        ]
        rows.append(texts)
    head = (
        "Row",
        "Dataset",
        "Benchmark",
        "Score",
        "Value",
        "Interval",
        "Difference",
        "Interval",
        "p",
        "p corrected",
        "n",
    )
    return {"head": head, "rows": rows}


def _plain(text: str) -> dict[str, Any]:
    return {"v": text, "text": text, "verdict": ""}


def _sortable(value: float | None) -> float | str:
    return "" if value is None else value


def _name(report: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    return row["row"] if len(report["models"]) == 1 else f"{row['model']}: {row['row']}"


def _correction(report: Mapping[str, Any]) -> str:
    names = {
        "holm": "Holm’s correction",
        "benjamini_hochberg": "Benjamini-Hochberg’s correction",
        "none": "no correction",
    }
    return names[report["measure"]["correction"]]


def _manifest(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """How the numbers were made, as (name, text)."""
    manifest, measure = report["manifest"], report["measure"]
    lines = []
    for name, model in report["models"].items():
        known = [model["source"], model["revision"], model["adapter"]]
        known += [f"identity {', '.join(model['identity'])}", ", ".join(model["numerics"])]
        lines.append(
            (f"Model {name}" if len(report["models"]) > 1 else "Model", ", ".join(k for k in known if k))
        )
    for name, data in report["benchmarks"].items():
        edition = f", edition {', '.join(data['editions'])}" if data["editions"] else ""
        lines.append(
            (
                f"Data {name}",
                f"{data['type']}{edition}, {data['questions']:,} questions, {data['images']:,} images, "
                f"items {data['items'][:16]}, truths {data['truths'][:16]}",
            )
        )
    lines += [
        ("Yes/no parser", measure["parser"]),
        ("Scorers", "; ".join(measure["scorers"])),
        (
            "Intervals",
            f"{measure['confidence']:.0%}, percentile bootstrap over {measure['clustered_by']}s, "
            f"{measure['resamples']:,} resamples, seed {measure['seed']}",
        ),
        (
            "Tests",
            "normal approximation with the bootstrap’s standard error; for accuracy also McNemar (exact), "
            f"and the larger p counts; {_correction(report)} over {measure['family']}",
        ),
        ("Command", manifest.get("command", "")),
        ("Commit", manifest.get("commit", "")),
        ("Started", manifest.get("started", "")),
        ("Hardware", _hardware(manifest.get("hardware", {}))),
        (
            "Versions",
            ", ".join(f"{name} {version}" for name, version in manifest.get("versions", {}).items()),
        ),
    ]
    return [(name, text) for name, text in lines if text]


def _hardware(hardware: Mapping[str, Any]) -> str:
    parts = [
        hardware.get("cpu", ""),
        f"{hardware['logical_cpus']} logical CPUs" if "logical_cpus" in hardware else "",
        f"{number(hardware.get('memory_gib')):g} GiB" if "memory_gib" in hardware else "",
        *hardware.get("gpus", []),
    ]
    return ", ".join(part for part in parts if part)
