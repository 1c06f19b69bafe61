"""The figure of a steering sweep: what could be had, what was taken, and what it was worth.

left    every trial: what was kept against how much was hallucinated, the Pareto front, the model as
        it is, the chosen point; below the dashed line too much was lost
right   the chosen point beside the model as it is on images that no trial saw
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sightline.evaluation.figures import TREND_COLORS
from sightline.evaluation.scoring import METRICS, benchmark_label
from sightline.evaluation.wording import amount, metric_label, number, trend
from sightline.look import INK, MUTED, PALE, RULE, STYLE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CHOSEN = "#0f766e"
_DECODERS = {
    "greedy": ("o", "#5b6b9a"),
    "beam": ("v", "#3b7ea1"),
    "vcd": ("s", "#b4530a"),
    "icd": ("D", "#9a6bb4"),
    "dola": ("^", "#a3892b"),
    "opera": ("P", "#8a4b5c"),
}
_SHOWN = (
    "false_yes_rate",
    "chair_s",
    "chair_i",
    "accuracy",
    "recall",
)
"""Which of the confirmed scores are drawn, where they are a benchmark's own business."""


def pareto_png(report: Mapping[str, Any]) -> bytes:
    """The figure of a sweep's report, as PNG."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(11.6, 5.2))
        grid = figure.add_gridspec(1, 2, left=0.065, right=0.935, top=0.78, bottom=0.15, wspace=0.62)
        _trials(figure.add_subplot(grid[0, 0] if report["confirmed"] is not None else grid[0, :]), report)
        if report["confirmed"] is not None:
            _confirmed(figure.add_subplot(grid[0, 1]), report)
        _caption(figure, report)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=150, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()


def _trials(axes: Axes, report: Mapping[str, Any]) -> None:
    trials = [trial for trial in report["trials"] if not _lost(trial)]
    baseline, chosen = report["baseline"], report["chosen"]
    _title(axes, f"{len(trials)} trials: upper left is better")
    for name, (marker, color) in _DECODERS.items():
        of_it = [trial for trial in trials if trial["choice"]["decoder"] == name]
        if of_it:
            x, y = _points(of_it)
            axes.scatter(
                x, y, s=26, marker=marker, color=color, alpha=0.65, linewidths=0, label=name, zorder=3
            )
    front = [trial for trial in trials if trial["trial_id"] in report["pareto"]]
    x, y = _points(sorted(front, key=lambda trial: trial["hallucination"]))
    axes.plot(x, y, drawstyle="steps-post", color=CHOSEN, linewidth=1.4, alpha=0.8, zorder=2)
    floor = 100 * (baseline["kept"] - report["objectives"]["margin"])
    axes.axhline(floor, color=PALE, linewidth=1.0, linestyle=(0, (4, 3)), zorder=1)
    _mark(axes, baseline, "as it is", INK, (8, -12))
    if chosen is not None:
        _mark(axes, chosen, "chosen", CHOSEN, (8, 8))
    axes.set_xlabel(f"hallucination: {_named(report['objectives']['hallucination'])}", fontsize=8.5)
    axes.set_ylabel(f"kept: {_named(report['objectives']['kept'])}", fontsize=8.5)
    _limits(axes, trials, baseline)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, _: f"{value:g}%")
    axes.grid(color=RULE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(length=0)
    below: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (-0.01, -0.15), "ncols": len(_DECODERS)}
    axes.legend(frameon=False, fontsize=8, handletextpad=0.1, columnspacing=1.2, borderaxespad=0.0, **below)


def _limits(axes: Axes, trials: Sequence[Mapping[str, Any]], baseline: Mapping[str, Any]) -> None:
    """Wide enough for nine trials in ten: one that broke the model must not squeeze the rest."""
    for name, set_limits in (("hallucination", axes.set_xlim), ("kept", axes.set_ylim)):
        values = 100 * np.asarray([trial[name] for trial in trials])
        low, high = float(values.min()), float(values.max())
        if name == "kept":
            low = min(float(np.quantile(values, 0.1)), 100 * baseline[name])
        else:
            high = max(float(np.quantile(values, 0.9)), 100 * baseline[name])
        slack = 0.08 * max(high - low, 1.0)
        set_limits(low - slack, high + slack)


def _confirmed(axes: Axes, report: Mapping[str, Any]) -> None:
    rows = [row for row in report["confirmed"]["comparison"] if _is_shown(row)]
    _title(axes, f"Confirmed on {report['confirmed']['images']} images that no trial saw")
    for y, row in enumerate(rows):
        color = TREND_COLORS[trend(row)]
        before, after = (100 * number(row[side]) for side in ("before", "after"))
        axes.plot([before, after], [y, y], color=color, alpha=0.35, linewidth=5, solid_capstyle="butt")
        axes.plot([before], [y], "o", color=PALE, markersize=6, markeredgecolor="white", zorder=3)
        axes.plot([after], [y], "o", color=color, markersize=6.5, markeredgecolor="white", zorder=4)
        axes.annotate(
            amount(row["delta"], row["metric"], signed=True),
            (1, y),
            (8, 0),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            va="center",
            color=color,
            fontsize=8.5,
        )
    labels = [f"{benchmark_label(row['benchmark'])}, {metric_label(row['metric'])}" for row in rows]
    axes.set_yticks(range(len(rows)), labels, color=INK, fontsize=8.5)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}%")
    axes.grid(axis="x", color=RULE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(length=0)
    axes.spines["left"].set_visible(False)


def _is_shown(row: Mapping[str, Any]) -> bool:
    """Shares that say something: CHAIR and recall of captions, accuracy of all, false yes of POPE."""
    is_caption = row["benchmark"] == "caption"
    wanted = row["metric"] in _SHOWN and (is_caption or row["metric"] in ("accuracy", "false_yes_rate"))
    return wanted and row["metric"] in METRICS and row["delta"] is not None and row["delta"] == row["delta"]


def _mark(axes: Axes, trial: Mapping[str, Any], text: str, color: str, offset: tuple[int, int]) -> None:
    at = (100 * trial["hallucination"], 100 * trial["kept"])
    axes.plot(*at, "o", markersize=11, markerfacecolor="none", markeredgecolor=color, mew=1.6, zorder=5)
    axes.annotate(text, at, offset, textcoords="offset points", color=color, fontweight="bold", zorder=6)


def _points(trials: Sequence[Mapping[str, Any]]) -> tuple[list[float], list[float]]:
    return [100 * trial["hallucination"] for trial in trials], [100 * trial["kept"] for trial in trials]


def _named(scores: Sequence[str]) -> str:
    """`mean of POPE adversarial false yes, Captions CHAIR_s`."""
    parts = [name.rpartition(".") for name in scores]
    names = ", ".join(
        f"{benchmark_label(benchmark)} {metric_label(metric)}" for benchmark, _, metric in parts
    )
    return f"mean of {names}" if len(scores) > 1 else names


def _caption(figure: Figure, report: Mapping[str, Any]) -> None:
    lines = textwrap.wrap(report["headline"], 122)[:3]
    figure.text(0.012, 0.98, "\n".join(lines), fontsize=10.5, fontweight="bold", va="top")
    note = (
        f"Shapes: the trial's decoder. Line: Pareto front. Dashed: the model as it is, less the margin of "
        f"{100 * report['objectives']['margin']:g} points; what is chosen lies above. Right: grey as it "
        f"is, coloured as chosen; teal better, rust worse, grey by chance ({report['confidence']:.0%} paired "
        f"intervals by image)."
    )
    below = 0.98 - 0.043 * len(lines) - 0.012
    figure.text(0.012, below, "\n".join(textwrap.wrap(note, 185)), fontsize=7.8, color=MUTED, va="top")


def _lost(trial: Mapping[str, Any]) -> bool:
    return any(trial[name] is None or trial[name] != trial[name] for name in ("hallucination", "kept"))


def _title(axes: Axes, text: str) -> None:
    axes.set_title(text, loc="left", fontsize=9.5, color=INK, pad=6)
