"""The figure of a search: how it went, where it looked, and what it was worth.

upper left    every trial in its order, the best so far, the default's level
upper right   the same trials by site: which layers are worth a probe
lower left    the same trials by each setting
lower right   winner and default on untouched images, beside what the search had promised
"""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sightline.activations.sites import EMBEDDING, KINDS, Site
from sightline.look import INK, MUTED, PALE, RULE, STYLE
from sightline.probes.figures import KIND_COLORS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WINNER = "#0f766e"


def search_png(report: Mapping[str, Any]) -> bytes:
    """The figure of a sweep's report, as PNG."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    trials = [trial for trial in report["trials"] if not _lost(trial)]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(11.6, 7.6))
        grid = figure.add_gridspec(
            2, 12, left=0.065, right=0.975, top=0.845, bottom=0.075, hspace=0.42, wspace=2.4
        )
        limits = _limits(report, trials)
        _history(figure.add_subplot(grid[0, :7]), report, trials, limits)
        _sites(figure.add_subplot(grid[0, 7:]), report, trials, limits)
        _settings(figure, grid[1, :8], trials, limits)
        _verdict(figure.add_subplot(grid[1, 9:]), report)
        _caption(figure, report)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=150, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()


def _history(
    axes: Axes, report: Mapping[str, Any], trials: Sequence[Mapping[str, Any]], limits: tuple[float, float]
) -> None:
    _title(axes, "Every trial, in order")
    scores = [trial["auroc"] for trial in trials]
    numbers = np.arange(1, len(trials) + 1)
    axes.step(numbers, np.maximum.accumulate(scores), where="post", color=WINNER, linewidth=1.6, zorder=2)
    axes.axhline(report["default"]["valid_auroc"], color=PALE, linewidth=1.2, linestyle=(0, (4, 3)), zorder=1)
    _text_at(axes, report["default"]["valid_auroc"], "default", PALE, limits)
    for kind in dict.fromkeys(_kind(trial) for trial in trials):
        for whole in (True, False):
            at = [i for i, t in enumerate(trials) if _kind(t) == kind and (t["end"] != "overtaken") == whole]
            axes.scatter(
                numbers[at],
                np.clip([scores[i] for i in at], *limits),
                s=22,
                color=KIND_COLORS[kind] if whole else "none",
                edgecolors=KIND_COLORS[kind],
                linewidths=1.0,
                label=kind if whole else None,
                zorder=3,
            )
    axes.set_ylim(*limits)
    axes.set_xlabel("trial")
    axes.locator_params(axis="x", integer=True)
    axes.set_ylabel("validation AUROC")
    _quiet(axes)


def _sites(
    axes: Axes, report: Mapping[str, Any], trials: Sequence[Mapping[str, Any]], limits: tuple[float, float]
) -> None:
    _title(axes, "Where: site and layer")
    sites = sorted({Site.parse(trial["site"]) for trial in trials}, key=_order)
    for x, site in enumerate(sites):
        scores = np.asarray([t["auroc"] for t in trials if t["site"] == site.name])
        axes.scatter(
            np.full(len(scores), x),
            np.clip(scores, *limits),
            s=16,
            color=KIND_COLORS[site.kind],
            alpha=0.35,
            linewidths=0,
        )
        axes.plot(
            [x - 0.3, x + 0.3],
            [min(scores.max(), limits[1])] * 2,
            color=KIND_COLORS[site.kind],
            linewidth=2.2,
        )
    axes.set_xticks(range(len(sites)), [_layer(site) for site in sites], fontsize=8)
    axes.set_xlim(-0.7, len(sites) - 0.3)
    axes.set_ylim(*limits)
    _quiet(axes)
    for kind in dict.fromkeys(site.kind for site in sites):
        places = [x for x, site in enumerate(sites) if site.kind == kind]
        axes.annotate(
            kind.replace("_", "\n"),
            (float(np.mean(places)), 0),
            (0, -22),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            ha="center",
            va="top",
            color=KIND_COLORS[kind],
            fontsize=8,
        )


def _settings(
    figure: Figure, place: Any, trials: Sequence[Mapping[str, Any]], limits: tuple[float, float]
) -> None:
    """A small panel a setting; numbers on their scale, names side by side."""
    names = [
        name
        for name in ("lr", "weight_decay", "dropout", "widths", "class_weight", "head")
        if _varies(trials, name)
    ]
    grid = place.subgridspec(2, 3, wspace=0.3, hspace=0.8)
    for i, name in enumerate(names):
        axes = figure.add_subplot(grid[i // 3, i % 3])
        _title(axes, {"lr": "learning rate"}.get(name, name.replace("_", " ")), size=8.5)
        given = [t for t in trials if name in t["choice"]]
        scores = np.clip([t["auroc"] for t in given], *limits)
        values = [t["choice"][name] for t in given]
        if isinstance(values[0], str):
            choices = sorted(set(values), key=lambda v: (len(v), v))
            at = np.asarray([choices.index(value) for value in values], dtype=float)
            axes.set_xticks(
                range(len(choices)),
                choices,
                fontsize=6.5 if len(choices) > 3 else 8,
                rotation=20 if len(choices) > 3 else 0,
            )
            axes.set_xlim(-0.6, len(choices) - 0.4)
        else:
            at = np.asarray(values, dtype=float)
            if name != "dropout":
                axes.set_xscale("log")
                axes.minorticks_off()
                axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0e}".replace("e-0", "e-"))
        axes.scatter(at, scores, s=11, c=[KIND_COLORS[_kind(t)] for t in given], alpha=0.6, linewidths=0)
        axes.set_ylim(*limits)
        axes.tick_params(labelsize=7.5)
        _quiet(axes)


def _verdict(axes: Axes, report: Mapping[str, Any]) -> None:
    """Rows from the top: what the search promised, the winner, the default, on one scale."""
    _title(axes, "On images the search never saw")
    promised = report["winner"]["trial"]["auroc"]
    rows = (
        ("promised", promised, None, MUTED),
        ("winner", report["winner"]["test_auroc"]["value"], report["winner"]["test_auroc"], WINNER),
        ("default", report["default"]["test_auroc"]["value"], report["default"]["test_auroc"], PALE),
    )
    for y, (_, value, interval, color) in enumerate(rows):
        if interval and interval["low"] is not None and not math.isnan(interval["low"]):
            axes.plot([interval["low"], interval["high"]], [y, y], color=color, linewidth=1.8, zorder=2)
        face = color if interval else "white"
        axes.plot([value], [y], "o", color=color, markerfacecolor=face, markersize=7, zorder=3)
        axes.annotate(
            f"{value:.3f}",
            (value, y),
            (0, 7),
            textcoords="offset points",
            ha="center",
            color=color,
            fontsize=8.5,
        )
    axes.set_yticks(range(len(rows)), [name for name, *_ in rows], color=INK)
    axes.set_ylim(len(rows) - 0.35, -0.75)
    axes.margins(x=0.15)
    axes.set_xlabel("AUROC")
    axes.grid(axis="x", color=RULE, linewidth=0.6)
    axes.tick_params(length=0)
    axes.spines["left"].set_visible(False)
    difference = report["difference"]
    axes.annotate(
        f"difference {difference['delta']:+.3f}",
        (0, len(rows) - 0.45),
        (2, 0),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        color=MUTED,
        fontsize=8,
    )


def _caption(figure: Figure, report: Mapping[str, Any]) -> None:
    lines = textwrap.wrap(report["headline"], 128)[:2]
    figure.text(0.015, 0.985, "\n".join(lines), fontsize=11, fontweight="bold", va="top")
    ends = [trial["end"] for trial in report["trials"]]
    note = (
        f"{len(ends)} trials, {ends.count('overtaken')} stopped early by ASHA (hollow), "
        f"{ends.count('failed')} failed; the poorest lie on the lower edge. "
        f"Colours: kind of site. Winner and default: mean over {len(report['seeds'])} seeds, "
        f"{report['confidence']:.0%} bootstrap intervals by image, "
        f"{report['rows']['test']:,} test rows. "
        "Promised: the winning trial's validation AUROC, the best of many draws."
    )
    figure.text(0.015, 0.925, "\n".join(textwrap.wrap(note, 172)), fontsize=8, color=MUTED, va="top")


def _limits(report: Mapping[str, Any], trials: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    """One scale for all panels: the tenth worst per cent of the trials may lie at its lower edge."""
    scores = [trial["auroc"] for trial in trials] + [report["default"]["valid_auroc"]]
    low, high = float(np.quantile(scores, 0.1)), max(scores)
    slack = 0.08 * max(high - low, 0.02)
    return low - slack, min(high + slack, 1.0 + slack)


def _lost(trial: Mapping[str, Any]) -> bool:
    return trial["auroc"] is None or math.isnan(trial["auroc"])


def _varies(trials: Sequence[Mapping[str, Any]], name: str) -> bool:
    return len({trial["choice"][name] for trial in trials if name in trial["choice"]}) > 1


def _kind(trial: Mapping[str, Any]) -> str:
    return Site.parse(trial["site"]).kind


def _order(site: Site) -> tuple[int, int]:
    return KINDS.index(site.kind), -2 if site.layer is None else site.layer


def _layer(site: Site) -> str:
    if site.layer is None:
        return ""
    return "emb" if site.layer == EMBEDDING else str(site.layer)


def _title(axes: Axes, text: str, size: float = 9.5) -> None:
    axes.set_title(text, loc="left", fontsize=size, color=INK, pad=6)


def _text_at(axes: Axes, y: float, text: str, color: str, limits: tuple[float, float]) -> None:
    """At the right end of a horizontal line, if the line is within the panel."""
    if limits[0] <= y <= limits[1]:
        axes.annotate(
            text,
            (1, y),
            (-2, 3),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            ha="right",
            color=MUTED,
            fontsize=8,
        )


def _quiet(axes: Axes) -> None:
    axes.grid(axis="y", color=RULE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(length=0)
