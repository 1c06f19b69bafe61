"""A bank of probes in MLflow: the run shows AUROC by layer, a child run each probe.

In the run, every kind of site is one series whose step is the layer (the embedding is step 0,
layer i is step i + 1), so that MLflow draws the bank's figure; controls are single values. The
child runs make a table that can be sorted by any score, with loss and AUROC by epoch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from sightline.distributed.tracking import TrackedRun

_SCORES = ("auroc", "within_kind", "auprc", "ece", "test_set", "valid_set", "train_set", "best_threshold")


def note_probe(tracking: TrackedRun, name: str, result: Mapping[str, Any]) -> None:
    """One probe's results.json as a child run; noted before, it stays as it is."""
    history = result["history"]
    tracking.note(
        name,
        params={key: result[key] for key in ("site", "seed", "head", "split", "input_dim", "stopped")},
        values=dict(_numbers({key: result.get(key) for key in _SCORES})),
        curves={
            key: [float("nan") if row[key] is None else row[key] for row in history]
            for key in ("train_loss", "valid_loss", "valid_auroc")
        },
    )


def note_bank(tracking: TrackedRun, report: Mapping[str, Any]) -> None:
    """The report's AUROCs by layer, and its controls."""
    points = []
    for site in report["sites"]:
        step = 0 if site["layer"] is None else site["layer"] + 1
        for score in ("auroc", "within_kind"):
            if site[score]["value"] is not None:
                points.append((f"{score}/{site['kind']}", step, site[score]["value"]))
    for name, control in report["controls"].items():
        value = (control.get("auroc") or {}).get("value")
        if value is not None:
            points.append((f"control/{name}", 0, value))
    tracking.add(points)


def _numbers(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """Every number of a nested mapping under its dotted name."""
    for key, inner in value.items():
        if isinstance(inner, Mapping):
            yield from _numbers(inner, f"{prefix}{key}.")
        elif isinstance(inner, int | float) and not isinstance(inner, bool):
            yield f"{prefix}{key}", float(inner)
