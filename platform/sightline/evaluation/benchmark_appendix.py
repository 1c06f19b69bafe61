"""What stands at the end of a benchmark's page: what came back, every number, and how all was made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sightline.evaluation.benchmark_table import DASH, interval
from sightline.evaluation.scoring import benchmark_label
from sightline.evaluation.wording import amount, metric_label, number

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


def faults(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every kind of fault of every row, the worst kinds first."""
    return [
        {
            "row": row_name(report, account),
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


_HEAD = ("Row", "Dataset", "Benchmark", "Score", "Value", "Interval", "Difference", "Interval", "p")


def every(report: Mapping[str, Any]) -> dict[str, Any]:
    """All scores with all differences, for the long table at the end."""
    keys = ("model", "row", "dataset", "benchmark", "metric")
    compared = {tuple(c[k] for k in keys): c for c in report["comparisons"]}
    rows = [
        _every_row(report, score, compared.get(tuple(score[k] for k in keys), {}))
        for score in report["scores"]
    ]
    return {"head": (*_HEAD, "p corrected", "n"), "rows": rows}


def _every_row(
    report: Mapping[str, Any], score: Mapping[str, Any], found: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """A score, and its difference from greedy where there is one."""
    metric = score["metric"]
    between = [amount(found.get(end), metric, signed=True) for end in ("ci_low", "ci_high")]
    names = (
        row_name(report, score),
        score["dataset"],
        benchmark_label(score["benchmark"]),
        metric_label(metric),
    )
    return [
        *(_cell(name, name) for name in names),
        _cell(score["value"], amount(score["value"], metric)),
        _cell(score["low"], interval(score, metric) if score["low"] is not None else ""),
        _cell(
            found.get("delta"),
            amount(found.get("delta"), metric, signed=True) if found else "",
            found.get("verdict", ""),
        ),
        _cell(found.get("ci_low"), " to ".join(between) if found else ""),
        _cell(found.get("p"), p_text(found["p"]) if found else ""),
        _cell(found.get("p_adjusted"), p_text(found["p_adjusted"]) if found else ""),
        _cell(score["n"], f"{score['n']:,}"),
    ]


def manifest(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """How the numbers were made, as (name, text)."""
    told, measure = report["manifest"], report["measure"]
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
            f"and the larger p counts; {correction(report)} over {measure['family']}",
        ),
        ("Command", told.get("command", "")),
        ("Commit", told.get("commit", "")),
        ("Started", told.get("started", "")),
        ("Hardware", _hardware(told.get("hardware", {}))),
        (
            "Versions",
            ", ".join(f"{name} {version}" for name, version in told.get("versions", {}).items()),
        ),
    ]
    return [(name, text) for name, text in lines if text]


def correction(report: Mapping[str, Any]) -> str:
    """Whose correction for many comparisons."""
    names = {
        "holm": "Holm’s correction",
        "benjamini_hochberg": "Benjamini-Hochberg’s correction",
        "none": "no correction",
    }
    return names[report["measure"]["correction"]]


def p_text(value: float | None) -> str:
    """A p-value to four digits; a dash where there is none."""
    return DASH if value is None else "< 0.0001" if value < 1e-4 else f"{value:.4f}"


def row_name(report: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    """The row's name, with its model's where there are several."""
    return row["row"] if len(report["models"]) == 1 else f"{row['model']}: {row['row']}"


def _cell(value: float | str | None, text: str, verdict: str = "") -> dict[str, Any]:
    """What a cell shows, and what it is sorted by."""
    return {"v": "" if value is None else value, "text": text, "verdict": verdict}


def _hardware(hardware: Mapping[str, Any]) -> str:
    parts = [
        hardware.get("cpu", ""),
        f"{hardware['logical_cpus']} logical CPUs" if "logical_cpus" in hardware else "",
        f"{number(hardware.get('memory_gib')):g} GiB" if "memory_gib" in hardware else "",
        *hardware.get("gpus", []),
    ]
    return ", ".join(part for part in parts if part)
