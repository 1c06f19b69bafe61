"""The report of a run: `report.json` for machines, `report.html` and a figure for people.

The page is one file that needs nothing beside it. Everything in it is derived from the
report's dict, so an old report.json can be rendered again. Text that came from models or
data is escaped by the template engine, without exception.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from sightline.config.evaluation import EvaluationConfig
from sightline.evaluation.compare import compare
from sightline.evaluation.examples import choose
from sightline.evaluation.gate import decide
from sightline.evaluation.predictions import Prediction
from sightline.evaluation.run_folder import PAGE, REPORT, Files, plain, write_json
from sightline.evaluation.scoring import METRICS, benchmark_label, score
from sightline.evaluation.thumbnails import image_data_uri
from sightline.evaluation.wording import amount, headline, metric_label, number, trend, unit
from sightline.look import pages
from sightline.metrics.objects import Lexicon

FIGURE = "before_after.png"
_TILES = (
    "pope_adversarial.false_yes_rate",
    "pope_adversarial.accuracy",
    "caption.chair_s",
    "caption.recall",
)
_CONDITIONS = {
    "cm": "cross-modal (cm)",
    "oa1": "context helps (oa1)",
    "oa2": "context harms (oa2)",
    "caption": "captions",
}


def assemble(
    *,
    manifest: Mapping[str, Any],
    config: BaseModel | Mapping[str, Any],
    before: Sequence[Prediction],
    after: Sequence[Prediction],
    lexicon: Lexicon | Mapping[str, str],
    settings: EvaluationConfig,
    training: Sequence[Mapping[str, Any]] = (),
    mining: Mapping[str, Any] | None = None,
    timings_s: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """Compare, judge and gather: the whole content of report.json, as plain JSON values.

    `training` rows are {step, loss, margin, accuracy, lr}; `mining` counts pairs by
    condition, or holds such counts by group ({"pairs": {...}, "dropped": {...}});
    `timings_s` are seconds by stage. Raises DataError when the sides hold different items.
    """
    words = lexicon if isinstance(lexicon, Lexicon) else Lexicon(lexicon)
    comparison = compare(before, after, lexicon=words, settings=settings)
    decision = decide(comparison, settings.gate)
    return plain(
        {
            "name": manifest.get("name", ""),
            "headline": headline(comparison, settings.gate.must_fall),
            "verdict": decision.to_json(),
            "comparison": comparison,
            "scores": {
                "before": score(before, lexicon=words, settings=settings),
                "after": score(after, lexicon=words, settings=settings),
            },
            "training": [dict(row) for row in training],
            "mining": dict(mining or {}),
            "examples": choose(before, after, count=settings.shown, lexicon=words, parser=settings.parser),
            "failed": [
                {"side": side, "example_id": p.example.example_id, "error": p.error}
                for side, rows in (("before", before), ("after", after))
                for p in rows
                if p.error
            ],
            "measure": {
                "parser": settings.parser,
                "resamples": settings.bootstrap,
                "confidence": settings.confidence,
                "seed": settings.seed,
                "clustered_by": "image",
            },
            "timings_s": dict(timings_s or {}),
            "manifest": dict(manifest),
            "config": config,
        }
    )


def write_report(files: Files, report: Mapping[str, Any]) -> None:
    """Write report.json, report.html and before_after.png, each whole or not at all."""
    from sightline.evaluation.figures import before_after_png

    write_json(files, REPORT, report)
    if report["comparison"]:
        files.write_bytes(FIGURE, before_after_png(report))
    files.write_bytes(PAGE, render_html(report).encode())


def render_html(report: Mapping[str, Any]) -> str:
    """The page of a report, self-contained. Images that cannot be read get a placeholder."""
    from sightline.evaluation import figures

    rows = [_table_row(row, report) for row in report["comparison"]]
    by_name = {row["name"]: row for row in rows}
    return (
        pages("sightline.evaluation")
        .get_template("report.html.jinja")
        .render(
            report=report,
            rows=rows,
            tiles=[by_name[name] for name in _TILES if name in by_name],
            forest=figures.forest_svg(report["comparison"]) if rows else "",
            curves=figures.curves_svg(report["training"]) if report["training"] else "",
            mining=_mining_groups(report["mining"]),
            examples=[_example_view(shown) for shown in report["examples"]],
            manifest=_manifest_lines(report),
            config_text=json.dumps(report["config"], indent=2, ensure_ascii=False),
            toy=_is_toy(report["config"]),
        )
    )


def _table_row(row: Mapping[str, Any], report: Mapping[str, Any]) -> dict[str, Any]:
    """One line of the table: text to show and numbers to sort by."""
    metric = row["metric"]
    relative = number(row["relative"])
    sides = {}
    for side in ("before", "after"):
        found = _score_of(report["scores"][side], row)
        interval = f"{amount(found.get('low'), metric)} to {amount(found.get('high'), metric)}"
        sides[side] = {
            "value": row[side],
            "text": amount(row[side], metric),
            "interval": interval if found.get("low") is not None else "",
        }
    return {
        "name": f"{row['benchmark']}.{metric}",
        "benchmark": benchmark_label(row["benchmark"]),
        "metric": metric_label(metric),
        "better": METRICS[metric].better if metric in METRICS else None,
        **sides,
        "delta": row["delta"],
        "delta_text": amount(row["delta"], metric, signed=True),
        "unit": unit(metric),
        "interval": "undefined"
        if row["ci_low"] is None
        else f"{amount(row['ci_low'], metric, signed=True)} to {amount(row['ci_high'], metric, signed=True)}",
        "relative": row["relative"],
        "relative_text": "" if relative != relative else f"{relative:+.0%}".replace("-", "\N{MINUS SIGN}"),
        "n": row["n"],
        "trend": trend(row),
    }


def _score_of(scores: Sequence[Mapping[str, Any]], row: Mapping[str, Any]) -> Mapping[str, Any]:
    key = (row["benchmark"], row["metric"])
    return next((s for s in scores if (s["benchmark"], s["metric"]) == key), {})


def _mining_groups(mining: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Bars by group; counts without a group are pairs by condition."""
    groups = {k: v for k, v in mining.items() if isinstance(v, Mapping)}
    if loose := {k: v for k, v in mining.items() if isinstance(v, int) and not isinstance(v, bool)}:
        groups = {"pairs by condition": loose} | groups
    return [
        {
            "title": title.replace("_", " "),
            "total": sum(counts.values()),
            "bars": [
                {
                    "label": _CONDITIONS.get(label, label.replace("_", " ")),
                    "count": count,
                    "percent": 100 * count / (max(counts.values()) or 1),
                }
                for label, count in counts.items()
            ],
        }
        for title, group in groups.items()
        if (counts := {k: v for k, v in group.items() if isinstance(v, int | float)})
    ]


def _example_view(shown: Mapping[str, Any]) -> dict[str, Any]:
    named = {side: segments(shown[side]["text"], shown[side]["wrong"]) for side in ("before", "after")}
    return dict(shown) | {
        "image": image_data_uri(shown["image_uri"]),
        "label": benchmark_label(shown["benchmark"]),
        "sides": [
            {"title": side, "segments": named[side], "right": not shown[side]["wrong"]} for side in named
        ],
    }


def segments(text: str, wrong: Sequence[Sequence[int]]) -> list[tuple[str, bool]]:
    """The text cut into (piece, is it wrong). An empty wrong answer becomes a word one can mark."""
    if not text.strip():
        return [("(no answer)", bool(wrong))]
    pieces, at = [], 0
    for start, end in sorted(map(tuple, wrong)):
        pieces += [(text[at:start], False), (text[start:end], True)]
        at = end
    return [(piece, marked) for piece, marked in [*pieces, (text[at:], False)] if piece]


def _manifest_lines(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What the page says of how the numbers were made, as (name, text)."""
    manifest, measure = report["manifest"], report["measure"]
    hardware, versions = manifest.get("hardware", {}), manifest.get("versions", {})
    memory = hardware.get("memory_gib")
    model = report["config"].get("model")
    lines = [
        (
            "Model",
            " ".join(str(v) for v in (model.get("source"), model.get("revision")) if v) if model else "",
        ),
        ("Command", manifest.get("command", "")),
        ("Commit", manifest.get("commit", "")),
        ("Started", manifest.get("started", "")),
        ("Seed", str(manifest.get("seed", ""))),
        (
            "Hardware",
            ", ".join(
                str(part)
                for part in (
                    hardware.get("cpu"),
                    f"{hardware['logical_cpus']} logical CPUs" if "logical_cpus" in hardware else "",
                    f"{memory} GiB" if memory else "",
                    *hardware.get("gpus", []),
                )
                if part
            ),
        ),
        ("Versions", ", ".join(f"{name} {version}" for name, version in versions.items())),
        (
            "Intervals",
            f"{measure['confidence']:.0%}, paired percentile bootstrap over {measure['clustered_by']}s, "
            f"{measure['resamples']} resamples, seed {measure['seed']}",
        ),
        ("Yes/no parser", measure["parser"]),
        ("Time", ", ".join(f"{stage} {_duration(s)}" for stage, s in report["timings_s"].items())),
    ]
    return [(name, text) for name, text in lines if text]


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{seconds:.1f} s"


def _is_toy(config: Mapping[str, Any]) -> bool:
    model = config.get("model")
    return isinstance(model, Mapping) and model.get("source") == "world"
