"""The report's figures: SVG for the page, PNG for the README.

Drawn by matplotlib on its object interface: no display is needed, and the style is put
back after each figure. Text stays text in the SVG, so it takes the page's font and can
be searched.
"""

from __future__ import annotations

import functools
import io
import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import numpy as np

from sightline.evaluation.scoring import METRICS, benchmark_label
from sightline.evaluation.wording import amount, is_share, metric_label, number, trend
from sightline.look import INK, MUTED, RULE, STYLE
from sightline.look import PALE as BEFORE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

P = ParamSpec("P")
R = TypeVar("R")
TREND_COLORS = {"better": "#0f766e", "worse": "#b4530a", "unclear": "#7b8794", "neutral": "#5b6b9a"}
_STYLE: Any = STYLE | {"ytick.color": INK}  # rows are named there
_README_ROWS = (
    ("pope_random", "false_yes_rate"),
    ("pope_popular", "false_yes_rate"),
    ("pope_adversarial", "false_yes_rate"),
    ("caption", "chair_s"),
    ("caption", "chair_i"),
    ("pope_random", "accuracy"),
    ("pope_popular", "accuracy"),
    ("pope_adversarial", "accuracy"),
    ("color", "accuracy"),
    ("count", "accuracy"),
    ("relation", "accuracy"),
    ("caption", "recall"),
)


def styled(draw: Callable[P, R]) -> Callable[P, R]:
    """Draw under our style and leave matplotlib's as it was."""

    @functools.wraps(draw)
    def styled(*args: P.args, **kwargs: P.kwargs) -> R:
        import matplotlib as mpl

        with mpl.rc_context(_STYLE):
            return draw(*args, **kwargs)

    return styled


@styled
def forest_svg(comparison: Sequence[Mapping[str, Any]]) -> str:
    """Every difference of a share with its interval, grouped by benchmark; zero is the dark line.

    Scores that are 0 on both sides (nothing was unparsed) are left to the table.
    """
    rows = [
        r
        for r in comparison
        if is_share(r["metric"]) and not math.isnan(number(r["delta"])) and (r["before"] or r["after"])
    ]
    groups = list(dict.fromkeys(r["benchmark"] for r in rows))
    height = 0.225 * (len(rows) + 1.35 * len(groups)) + 0.5
    figure = new_figure(9.2, height)
    axes = figure.add_subplot(1, 1, 1)
    axes.axvline(0, color=INK, linewidth=0.8, zorder=1)
    y = 0.0
    for benchmark in groups:
        y += 0.35
        _left_label(axes, benchmark_label(benchmark), y, indent=0, fontweight="bold")
        y += 1
        for row in (r for r in rows if r["benchmark"] == benchmark):
            _left_label(axes, metric_label(row["metric"]), y, indent=12)
            _forest_row(axes, row, y)
            y += 1
    axes.set_ylim(y - 0.2, -0.3)
    axes.set_yticks([])
    quiet_axes(axes)
    axes.set_xlabel("after \N{MINUS SIGN} before, percentage points")
    ends = [100 * number(r[k]) for r in rows for k in ("delta", "ci_low", "ci_high")]
    ends = [0.0, *(e for e in ends if not math.isnan(e))]
    slack = 0.04 * max(max(ends) - min(ends), 1.0)
    axes.set_xlim(min(ends) - slack, max(ends) + slack)
    figure.subplots_adjust(left=0.175, right=0.93, top=1 - 0.02 / height, bottom=0.42 / height)
    return svg_text(figure, "forest")


@styled
def curves_svg(training: Sequence[Mapping[str, Any]]) -> str:
    """Loss, reward margin and preference accuracy by step: each value pale, their running mean on top."""
    panels = [
        (key, title)
        for key, title in (
            ("loss", "loss"),
            ("margin", "reward margin"),
            ("accuracy", "chosen preferred, share"),
            ("lr", "learning rate"),
        )
        if any(not math.isnan(number(row.get(key))) for row in training)
    ]
    if not panels:
        return ""
    figure = new_figure(9.2, 2.3)
    for index, (key, title) in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), index + 1)
        points = [(number(r["step"]), number(r.get(key))) for r in training]
        steps, values = np.asarray([p for p in points if not any(map(math.isnan, p))]).reshape(-1, 2).T
        axes.set_title(title, fontsize=9, color=INK, loc="left")
        axes.plot(steps, values, color=TREND_COLORS["better"], linewidth=1.0, alpha=0.28, zorder=2)
        smooth = values if key == "lr" else _running_mean(values)
        axes.plot(steps, smooth, color=TREND_COLORS["better"], linewidth=1.7, zorder=3)
        axes.grid(axis="y", color=RULE, linewidth=0.6)
        axes.tick_params(length=0, labelsize=8, labelcolor=MUTED)
        axes.margins(x=0.02)
        axes.set_xlabel("step", fontsize=8)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:.4g}".replace("e-0", "e-"))
    figure.subplots_adjust(left=0.045, right=0.99, top=0.87, bottom=0.2, wspace=0.3)
    return svg_text(figure, "curves")


@styled
def before_after_png(report: Mapping[str, Any]) -> bytes:
    """The README's figure: what should fall and what must stay, before and after, with intervals."""
    order = {key: i for i, key in enumerate(_README_ROWS)}
    rows = [r for r in report["comparison"] if (r["benchmark"], r["metric"]) in order]
    rows = [r for r in rows if not math.isnan(number(r["delta"]))] or list(report["comparison"])
    rows.sort(key=lambda r: order.get((r["benchmark"], r["metric"]), len(order)))
    panels = [
        ("Hallucination: lower is better", [r for r in rows if _hallucination(r)]),
        ("What must not break: higher is better", [r for r in rows if not _hallucination(r)]),
    ]
    panels = [(title, chosen) for title, chosen in panels if chosen]
    width, row_height, head, foot = 11.6, 0.33, 1.12, 0.42
    height = head + foot + row_height * max(len(chosen) for _, chosen in panels)
    figure = new_figure(width, height)
    panel = width / len(panels)
    for index, (title, chosen) in enumerate(panels):
        tall = row_height * len(chosen)
        left, right = index * panel + 2.0, (index + 1) * panel - 0.65
        box = (left / width, (height - head - tall) / height, (right - left) / width, tall / height)
        _dumbbells(figure.add_axes(box), title, chosen, report["scores"])
    _caption(figure, report)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=160, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()


def _forest_row(axes: Axes, row: Mapping[str, Any], y: float) -> None:
    color = TREND_COLORS[trend(row)]
    delta, low, high = (100 * number(row[key]) for key in ("delta", "ci_low", "ci_high"))
    axes.plot([low, high], [y, y], color=color, linewidth=1.8, solid_capstyle="round", zorder=3)
    axes.plot([delta], [y], "o", color=color, markersize=5, zorder=4)
    _right_label(axes, amount(row["delta"], row["metric"], signed=True), y, color)


def _left_label(axes: Axes, text: str, y: float, *, indent: float, **look: Any) -> None:
    """Text at the page's left edge, level with `y`."""
    at: dict[str, Any] = {
        "xycoords": ("figure fraction", "data"),
        "textcoords": "offset points",
        "va": "center",
    }
    axes.annotate(text, (0, y), (indent + 2, 0), **at, **look)


def _right_label(axes: Axes, text: str, y: float, color: str) -> None:
    """A value in the margin right of the axes, level with `y`."""
    at: dict[str, Any] = {
        "xycoords": ("axes fraction", "data"),
        "textcoords": "offset points",
        "va": "center",
    }
    axes.annotate(text, (1, y), (8, 0), color=color, fontsize=8.5, **at)


def quiet_axes(axes: Axes) -> None:
    """Faint vertical lines, no ticks, no left edge: rows speak for themselves."""
    axes.grid(axis="x", color=RULE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(length=0)
    axes.spines["left"].set_visible(False)


def _dumbbells(
    axes: Axes,
    title: str,
    rows: Sequence[Mapping[str, Any]],
    scores: Mapping[str, Sequence[Mapping[str, Any]]],
) -> None:
    axes.set_title(title, loc="left", fontsize=9.5, color=MUTED, pad=8)
    for y, row in enumerate(rows):
        color = TREND_COLORS[trend(row)]
        before, after = (100 * number(row[side]) for side in ("before", "after"))
        axes.plot([before, after], [y, y], color=color, alpha=0.35, linewidth=5, solid_capstyle="butt")
        for side, at, tone in (("before", before, BEFORE), ("after", after, color)):
            low, high = _interval(scores[side], row)
            axes.plot([low, high], [y, y], color=tone, linewidth=1.1, zorder=3)
            axes.plot([at], [y], "o", color=tone, markersize=6.5, zorder=4, markeredgecolor="white")
        _right_label(axes, amount(row["delta"], row["metric"], signed=True), y, color)
    labels = [f"{benchmark_label(r['benchmark'])}, {metric_label(r['metric'])}" for r in rows]
    axes.set_yticks(range(len(rows)), labels)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}%")
    quiet_axes(axes)
    axes.locator_params(axis="x", nbins=6, steps=[1, 2, 5, 10])
    if all(is_share(row["metric"]) for row in rows):
        low, high = axes.get_xlim()
        axes.set_xlim(0 if all(_hallucination(row) for row in rows) else low, min(high, 100.5))


def _caption(figure: Figure, report: Mapping[str, Any]) -> None:
    measure, inch = report["measure"], 1 / figure.get_figheight()
    lines = textwrap.wrap(report["headline"], 124)[:2]
    figure.text(0.012, 1 - 0.12 * inch, "\n".join(lines), fontsize=11.5, fontweight="bold", va="top")
    note = (
        f"Grey: before. Coloured: after. Whiskers: {measure['confidence']:.0%} bootstrap intervals by "
        f"{measure['clustered_by']}. Right: difference in points; teal better, rust worse, grey by chance."
    )
    below = 0.38 if len(lines) == 1 else 0.57
    figure.text(0.012, 1 - below * inch, note, fontsize=8, color=MUTED, va="top")


def _interval(scores: Sequence[Mapping[str, Any]], row: Mapping[str, Any]) -> tuple[float, float]:
    key = (row["benchmark"], row["metric"])
    found = next((s for s in scores if (s["benchmark"], s["metric"]) == key), {"low": None, "high": None})
    return 100 * number(found["low"]), 100 * number(found["high"])


def _hallucination(row: Mapping[str, Any]) -> bool:
    return row["metric"] in METRICS and METRICS[row["metric"]].hallucination


def _running_mean(values: np.ndarray) -> np.ndarray:
    """Centred mean over about a twelfth of the curve, shorter at its ends."""
    width = max(1, len(values) // 12)
    kernel = np.ones(2 * (width // 2) + 1)
    return np.convolve(values, kernel, mode="same") / np.convolve(np.ones(len(values)), kernel, mode="same")


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of so many inches, bound to no display."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height))


def svg_text(figure: Figure, name: str) -> str:
    """The figure as inline SVG: no XML header, no date, ids that do not clash on one page."""
    import matplotlib as mpl

    buffer = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": name, "svg.id": name}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
