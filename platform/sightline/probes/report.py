"""The bank's report, and what lies in folders: a probe's own, and the summary of all.

The page and the figures are made of the report alone, so an old report.json can be
drawn again. Text from models and data is escaped by the template engine.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sightline.activations.sites import EMBEDDING, KINDS, Site
from sightline.errors import DataError
from sightline.look import pages
from sightline.probes.artifact import Probe
from sightline.probes.controls import best_control
from sightline.probes.results import strict

RESULTS, FIGURE, PAGE = "results.json", "bank.png", "summary.html"
_COLUMNS = (
    "auroc",
    "within_kind",
    "auprc",
    "base_rate",
    "best_threshold",
    "ece",
    "ece_uncalibrated",
    "input_dim",
)


def write_probe(folder: str | Path, probe: Probe, result: Mapping[str, Any]) -> None:
    """One probe's folder: probe.safetensors, probe.json, results.json and four PNGs."""
    from sightline.probes import figures

    path = Path(folder)
    probe.save(path)
    (path / RESULTS).write_text(json.dumps(result, indent=2, allow_nan=False) + "\n")
    (path / "confusion_matrix.png").write_bytes(figures.confusion_png(result))
    (path / "roc_curve.png").write_bytes(figures.roc_png(result))
    (path / "training_history.png").write_bytes(figures.history_png(result))
    (path / "calibration.png").write_bytes(figures.calibration_png(result))


def bank_report(
    results: Sequence[Mapping[str, Any]],
    controls: Mapping[str, Any],
    *,
    refused: Mapping[str, str],
    manifest: Mapping[str, Any],
) -> dict[str, Any]:
    """Every site in order, its seeds gathered, beside the controls; the best one and a headline.

    The best site is chosen on validation rows (without any, on test rows, and then it says so),
    so its test AUROC is not the luckiest of many. Raises DataError without a result.
    """
    if not results:
        raise DataError(expected="the result of at least one probe", got="none")
    by_site: dict[str, list[Mapping[str, Any]]] = {}
    for result in results:
        by_site.setdefault(result["site"], []).append(result)
    sites = [_site(name, by_site[name]) for name in sorted(by_site, key=_order)]
    on_valid = all(site["valid_auroc"] is not None for site in sites)
    best = max(sites, key=lambda s: (s["valid_auroc"] if on_valid else s["auroc"]["value"]) or 0.0)
    first = by_site[best["site"]][0]
    report = {
        "name": manifest.get("name", ""),
        "model_name": first["model_name"],
        "head": first["head"],
        "split": first["split"],
        "confidence": first["confidence"],
        "rows": first["rows"],
        "sites": sites,
        "controls": dict(controls),
        "refused": dict(refused),
        "best": best["site"],
        "best_chosen_on": "validation rows" if on_valid else "test rows",
        "best_result": dict(first),
        "manifest": dict(manifest),
    }
    return strict(report | {"headline": headline(best, controls), "remark": remark(best, controls)})


def headline(best: Mapping[str, Any], controls: Mapping[str, Any]) -> str:
    """One sentence: what the best probe scores, and what the strongest control does."""
    probe = f"{best['label']} tells hallucinated answers with AUROC {best['auroc']['value']:.2f}"
    probe = probe[0].upper() + probe[1:]
    rival = best_control(controls)
    if rival is None:
        return f"{probe}; no control could be had."
    name, control = rival[1]["label"], rival[1]["auroc"]
    if (best["auroc"]["low"] or 0.0) > (control["high"] or 1.0):
        return f"{probe}; the {name}: {control['value']:.2f}."
    return f"{probe}, not clearly above the {name} ({control['value']:.2f})."


def remark(best: Mapping[str, Any], controls: Mapping[str, Any]) -> str:
    """What is left within kinds of question, and what chance looks like here."""
    within, shuffled = best["within_kind"], controls.get("shuffled_labels", {}).get("auroc")
    text = "Within one kind of question nothing can be said."
    if within["value"] is not None:
        verb = "it keeps" if (within["low"] or 0.0) > 0.5 else "it is not clearly above chance:"
        text = f"Within one kind of question {verb} {within['value']:.2f}"
        text += "." if within["low"] is None else f" ({within['low']:.2f} to {within['high']:.2f})."
    if shuffled and shuffled["value"] is not None:
        text += f" With shuffled labels a probe scores {shuffled['value']:.2f}."
    return text


def write_bank(folder: str | Path, report: Mapping[str, Any]) -> None:
    """bank.png and summary.html."""
    from sightline.probes.bank_figure import bank_png

    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    (path / FIGURE).write_bytes(bank_png(report))
    (path / PAGE).write_text(render_html(report))


def render_html(report: Mapping[str, Any]) -> str:
    """The page of a bank, one file that needs nothing beside it."""
    from sightline.probes import bank_figure, figures

    return (
        pages("sightline.probes")
        .get_template("summary.html.jinja")
        .render(
            report=report,
            bank=bank_figure.bank_svg(report),
            best=figures.best_svg(report["best_result"]),
            interval=figures.interval,
            manifest=_manifest_lines(report),
            best_site=next(site for site in report["sites"] if site["site"] == report["best"]),
            rival=best_control(report["controls"]),
        )
    )


def _site(name: str, results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One site's row: the first seed's scores, every seed's AUROC."""
    site, first = Site.parse(name), results[0]
    return {
        "site": name,
        "kind": site.kind,
        "layer": site.layer,
        "label": _label(site),
        "seeds": [result["auroc"]["value"] for result in results],
        "train_auroc": first["train_set"]["auroc"],
        "valid_auroc": first["valid_set"]["auroc"],
        "test_set": first["test_set"],
        "stopped": first["stopped"],
        **{key: first[key] for key in _COLUMNS},
    }


def _label(site: Site) -> str:
    if site.layer is None:
        return "the vision tower's output"
    kind = site.kind.replace("_", " ")
    return f"the {kind} at {'the embedding' if site.layer == EMBEDDING else f'layer {site.layer}'}"


def _order(name: str) -> tuple[int, int]:
    site = Site.parse(name)
    return KINDS.index(site.kind), -2 if site.layer is None else site.layer


def _manifest_lines(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """How the numbers were made, as (name, text)."""
    manifest, rows, settings = report["manifest"], report["rows"], report["best_result"]
    hardware = manifest.get("hardware", {})
    sides = ", ".join(f"{rows[s]['n']:,} {s} ({rows[s]['hallucinated']:,} hallucinated)" for s in rows)
    lines = [
        ("Model", report["model_name"]),
        (
            "Head",
            f"{report['head']}, epoch {settings['stopped']} kept" if settings["stopped"] else report["head"],
        ),
        ("Rows", f"{sides}; split by {report['split']}"),
        ("Best site", f"{report['best']}, chosen on {report['best_chosen_on']}"),
        ("Intervals", f"{report['confidence']:.0%}, percentile bootstrap over images"),
        ("Command", manifest.get("command", "")),
        ("Commit", manifest.get("commit", "")),
        ("Started", manifest.get("started", "")),
        ("Hardware", ", ".join(str(v) for v in (hardware.get("cpu"), *hardware.get("gpus", [])) if v)),
        ("Versions", ", ".join(f"{k} {v}" for k, v in manifest.get("versions", {}).items())),
    ]
    return [(name, str(text)) for name, text in lines if text]
