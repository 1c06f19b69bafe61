"""The report of a benchmark: `report.json` for machines, a page, a table and a figure for people.

Everything is derived from answers, benchmarks and settings: scored again, it is the same report.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sightline.config.benchmark import GREEDY, BenchmarkConfig
from sightline.config.mitigations import to_text
from sightline.data.licences import is_restricted
from sightline.evaluation.benchmark_examples import choose
from sightline.evaluation.fairness import hash_items, hash_truths
from sightline.evaluation.matrix import Side, measure
from sightline.evaluation.published import Published
from sightline.evaluation.run_folder import PAGE, REPORT, Files, plain, write_json
from sightline.evaluation.scoring import METRICS, benchmark_label
from sightline.evaluation.wording import amount
from sightline.metrics.objects import Lexicon
from sightline.records import Example

TABLE, FIGURE = "report.md", "methods.png"
LEADS = ("chair_s", "accuracy")
"""Scores that the headline speaks of, each where it is first measured (accuracy on yes/no questions)."""
_SUBJECTS = {"chair_s": "captions with an invented object"}


def assemble(
    config: BenchmarkConfig,
    manifest: Mapping[str, Any],
    sides: Sequence[Side],
    datasets: Mapping[str, Sequence[Example]],
    lexicon: Lexicon,
    published: Published | None = None,
) -> dict[str, Any]:
    """Score, compare and gather: the whole content of report.json, as plain JSON values."""
    measured = measure(sides, config, lexicon, published)
    private = _private(config, datasets)
    return plain(
        {
            "name": manifest.get("name", config.run.name),
            "headline": headline(measured["scores"], measured["comparisons"]),
            "rows": [_row(method, sides) for method in config.methods()],
            "models": _models(config, sides),
            "benchmarks": {
                name: _benchmark(examples, config.benchmarks[name].type, name in private)
                for name, examples in datasets.items()
            },
            **measured,
            "examples": _examples(sides, config, lexicon, private, published),
            "measure": {
                "parser": config.parser,
                "resamples": config.bootstrap,
                "confidence": config.confidence,
                "seed": config.seed,
                "clustered_by": "image",
                "correction": config.correction,
                "family": "one score over all models, rows and benchmarks",
                "scorers": published.remarks() if published is not None else [],
            },
            "manifest": dict(manifest),
            "config": config.model_dump(mode="json", exclude={"score_only", "dry_run"}),
        }
    )


def write_report(files: Files, report: Mapping[str, Any]) -> None:
    """Write report.json, report.html, report.md and (if a share was compared) methods.png, each whole."""
    from sightline.evaluation.benchmark_figures import forest_panels, methods_png
    from sightline.evaluation.benchmark_page import render_html
    from sightline.evaluation.benchmark_table import markdown

    write_json(files, REPORT, report)
    files.write_bytes(PAGE, render_html(report).encode())
    files.write_bytes(TABLE, markdown(report).encode())
    if report["comparisons"] and forest_panels(report, next(iter(report["models"]))):
        files.write_bytes(FIGURE, methods_png(report))


def headline(scores: Sequence[Mapping[str, Any]], comparisons: Sequence[Mapping[str, Any]]) -> str:
    """For each lead score: greedy's value, and the row that improves it most for sure, if any does."""
    sentences = []
    for metric in LEADS:
        wanted = [s for s in scores if s["row"] == GREEDY and s["metric"] == metric]
        yes_no = {(s["dataset"], s["benchmark"]) for s in scores if s["metric"] == "f1"}
        if metric == "accuracy":
            wanted = [s for s in wanted if (s["dataset"], s["benchmark"]) in yes_no]
        # The last of POPE's splits is the hardest.
        if wanted:
            sentences.append(_sentence(wanted[-1], comparisons))
    return " ".join(sentences) or "Nothing was compared."


def _sentence(greedy: Mapping[str, Any], comparisons: Sequence[Mapping[str, Any]]) -> str:
    metric = greedy["metric"]
    subject = _SUBJECTS.get(metric, f"{benchmark_label(greedy['benchmark'])} {METRICS[metric].label}")
    same = [
        c for c in comparisons if all(c[k] == greedy[k] for k in ("model", "dataset", "benchmark", "metric"))
    ]
    better = [c for c in same if c["verdict"] == "better"]
    text = f"{subject[0].upper()}{subject[1:]}: {amount(greedy['value'], metric)} under greedy"
    if not better:
        return f"{text}, and no row is better for sure."
    best = max(better, key=lambda c: abs(c["delta"]))
    return f"{text}, {amount(best['after'], metric)} with {best['row']}."


def _row(method: Any, sides: Sequence[Side]) -> dict[str, Any]:
    """A row as it stands in the report: measured, pending, or without answers."""
    answered = any(side.row == method.name for side in sides)
    return {
        "row": method.name,
        "mitigations": " + ".join(map(to_text, method.mitigations)) or ("" if method.pending else GREEDY),
        "status": "pending" if method.pending else "measured" if answered else "no answers",
        "reason": method.pending,
    }


def _models(config: BenchmarkConfig, sides: Sequence[Side]) -> dict[str, Any]:
    """What each model was, as its answers say."""
    return {
        name: {
            "source": model.source,
            "revision": model.revision,
            "adapter": model.adapter,
            "identity": sorted({s.matched.conditions.model for s in sides if s.model == name}),
            "numerics": sorted({n for s in sides if s.model == name for n in s.matched.conditions.numerics}),
        }
        for name, model in config.named_models().items()
    }


def _benchmark(examples: Sequence[Example], kind: str, private: bool) -> dict[str, Any]:
    """What identifies the data: any change of a question or a truth changes a hash."""
    return {
        "type": kind,
        "questions": len(examples),
        "images": len({e.image_id for e in examples}),
        "splits": sorted({e.split or e.kind for e in examples}),
        "sources": sorted({e.source for e in examples if e.source}),
        "editions": sorted({str(e.meta["edition"]) for e in examples if "edition" in e.meta}),
        "items": hash_items(examples),
        "truths": hash_truths(examples),
        "private": private,
    }


def _private(config: BenchmarkConfig, datasets: Mapping[str, Sequence[Example]]) -> set[str]:
    """Datasets under a use agreement: those that the settings name, and those whose loader says so."""
    marked = {name for name, examples in datasets.items() if any(map(is_restricted, examples))}
    return marked | set(config.private)


def _examples(
    sides: Sequence[Side],
    config: BenchmarkConfig,
    lexicon: Lexicon,
    private: Collection[str],
    published: Published | None,
) -> list[dict[str, Any]]:
    """The first model's examples, as many of each benchmark that may be shown."""
    open_ones = [name for name in config.benchmarks if name not in private]
    first = next(iter(config.named_models()))
    shown = []
    for name in open_ones:
        own = [side for side in sides if side.model == first and side.dataset == name]
        count = config.shown // len(open_ones)
        shown += choose(own, count=count, lexicon=lexicon, parser=config.parser, published=published)
    return shown
