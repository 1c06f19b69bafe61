"""A benchmark's figures: differences from greedy, POPE, captions. SVG for the page, PNG for the README.

Rows are methods in the order of the settings. Teal is better and rust worse for sure (after
correction), grey within chance; the dashed line is greedy.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sightline.config.benchmark import GREEDY
from sightline.evaluation.benchmark_table import Column, columns
from sightline.evaluation.figures import TREND_COLORS, new_figure, quiet_axes, styled, svg_text
from sightline.evaluation.scoring import METRICS
from sightline.evaluation.wording import amount, is_share, metric_label, number
from sightline.look import INK, MUTED, PALE, RULE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WIDTH, _ROW, _HEAD, _FOOT = 11.6, 0.27, 0.5, 0.36
_PANELS = 6
_LEADING = ("false_yes_rate", "chair_s", "chair_i", "recall", "accuracy")


def theme(svg: str) -> str:
    """The SVG with the page's colours in the place of fixed ones, so that it follows light and dark."""
    names = {INK: "--ink", MUTED: "--muted", RULE: "--rule", PALE: "--pale"}
    names |= {color: f"--{trend}" for trend, color in TREND_COLORS.items()}
    for color, name in names.items():
        svg = svg.replace(color, f"var({name})")
    return svg


@styled
def forest_svg(report: Mapping[str, Any], model: str) -> str:
    """Each method's difference from greedy with its paired interval, one panel a score."""
    panels, names = forest_panels(report, model), _methods(report, model)
    if not panels or not names:
        return ""
    figure = new_figure(_WIDTH, _height(names))
    _forest(figure, report, model, panels, names)
    return theme(svg_text(figure, f"forest-{model}"))


@styled
def pope_svg(report: Mapping[str, Any], model: str) -> str:
    """Accuracy of every yes/no benchmark with its interval, and the share of answers that say yes."""
    accuracy = [c for c in columns(report) if c.metric == "accuracy" and _has(report, c, "f1")]
    names = [GREEDY, *_methods(report, model)]
    if not accuracy:
        return ""
    figure = new_figure(_WIDTH, _height(names))
    for axes, column in zip(_grid(figure, names, len(accuracy)), accuracy, strict=True):
        _title(axes, column.group, "accuracy \N{UPWARDS ARROW}, and % of yes")
        for y, name in enumerate(names):
            _value_row(axes, report, column, model, name, y)
        said = Column(column.dataset, column.benchmark, "yes_ratio", column.group)
        for y, name in enumerate(names):
            found = said.find(report["scores"], model, name)
            _margin_text(axes, f"{100 * number(found['value']):.0f}%" if found else "", y, MUTED)
        _greedy_line(axes, report, column, model)
    return theme(svg_text(figure, f"pope-{model}"))


@styled
def captions_svg(report: Mapping[str, Any], model: str) -> str:
    """Invented objects against recall: what a method gains, and what it pays. Lower right is better."""
    pairs = [c for c in columns(report) if c.metric == "chair_s"]
    if not pairs:
        return ""
    figure = new_figure(_WIDTH, 3.9)
    width = (1 - 0.05) / len(pairs)
    for i, column in enumerate(pairs):
        axes = figure.add_axes((0.055 + i * width, 0.13, width - 0.26, 0.8))
        _scatter(axes, report, column, model)
    return theme(svg_text(figure, f"captions-{model}"))


@styled
def methods_png(report: Mapping[str, Any]) -> bytes:
    """The README's figure: every method's difference from greedy, for the first model."""
    model = next(iter(report["models"]))
    panels, names = forest_panels(report, model), _methods(report, model)
    height = _height(names) + 0.62
    figure = new_figure(_WIDTH, height)
    _forest(figure, report, model, panels, names)
    measure = report["measure"]
    figure.text(
        0.012,
        1 - 0.12 / height,
        "Each method against greedy, on the same items",
        fontsize=11.5,
        fontweight="bold",
        va="top",
    )
    corrected = {"holm": "after Holm's correction", "none": "uncorrected"}
    chance = corrected.get(measure["correction"], "after Benjamini and Hochberg's correction")
    note = (
        f"Difference in points with {measure['confidence']:.0%} intervals (paired bootstrap by "
        f"{measure['clustered_by']}). Teal: better for sure, rust: worse for sure, grey: within chance "
        f"({chance})."
    )
    figure.text(0.012, 1 - 0.37 / height, note, fontsize=8, color=MUTED, va="top")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=160, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()


def forest_panels(report: Mapping[str, Any], model: str) -> list[Column]:
    """The scores worth a panel, at most six: false yeses and accuracy of yes/no benchmarks, CHAIR, recall."""
    shares = [c for c in columns(report) if is_share(c.metric) and c.metric not in ("f1", "yes_ratio")]
    captions = [c for c in shares if c.metric in ("chair_s", "chair_i", "recall")]
    others = [c for c in shares if c not in captions]
    yes_no = [c for c in others if _has(report, c, "f1")]
    room = max(1, _PANELS - len(captions[:3]))
    chosen = [*yes_no, *(c for c in others if c not in yes_no)][:room] + captions[:3]
    return [c for c in chosen if c.find(report["scores"], model, GREEDY)]


def _methods(report: Mapping[str, Any], model: str) -> list[str]:
    """The rows that were compared, in the settings' order."""
    compared = {c["row"] for c in report["comparisons"] if c["model"] == model}
    return [row["row"] for row in report["rows"] if row["row"] in compared]


def _has(report: Mapping[str, Any], column: Column, metric: str) -> bool:
    return any(
        (s["dataset"], s["benchmark"], s["metric"]) == (column.dataset, column.benchmark, metric)
        for s in report["scores"]
    )


def _height(names: Sequence[str]) -> float:
    return _HEAD + _FOOT + _ROW * len(names)


def _grid(figure: Figure, names: Sequence[str], count: int) -> list[Axes]:
    """`count` panels side by side, one line a name; the names stand left of the first."""
    width, height = figure.get_size_inches()
    left = 0.3 + 0.078 * max(map(len, names))
    each = (width - left - 0.1) / count
    tall = _ROW * len(names)
    panels: list[Axes] = []
    for i in range(count):
        box = ((left + i * each) / width, _FOOT / height, (each - 0.55) / width, tall / height)
        axes = figure.add_axes(box)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.set_yticks(range(len(names)), list(names) if i == 0 else [""] * len(names))
        quiet_axes(axes)
        axes.locator_params(axis="x", nbins=4, steps=[1, 2, 5, 10])
        axes.tick_params(axis="x", labelsize=7.5)
        panels.append(axes)
    return panels


def _forest(
    figure: Figure,
    report: Mapping[str, Any],
    model: str,
    panels: Sequence[Column],
    names: Sequence[str],
) -> None:
    for axes, column in zip(_grid(figure, names, len(panels)), panels, strict=True):
        greedy = column.find(report["scores"], model, GREEDY)
        base = f"greedy {amount(greedy['value'], column.metric)}" if greedy else ""
        arrow = {"lower": " \N{DOWNWARDS ARROW}", "higher": " \N{UPWARDS ARROW}"}
        better = METRICS[column.metric].better if column.metric in METRICS else None
        _title(axes, column.group, f"{metric_label(column.metric)}{arrow.get(better or '', '')}, {base}")
        axes.axvline(0, color=MUTED, linewidth=0.9, dashes=(3, 2), zorder=1)
        for y, name in enumerate(names):
            found = column.find(report["comparisons"], model, name)
            if found is None or found["delta"] is None:
                continue
            color = TREND_COLORS[found["verdict"]]
            delta, low, high = (100 * number(found[key]) for key in ("delta", "ci_low", "ci_high"))
            _whisker(axes, delta, low, high, y, color)
            _margin_text(axes, amount(found["delta"], column.metric, signed=True), y, color)
        low, high = axes.get_xlim()
        span = max(abs(low), abs(high), 1.0)
        axes.set_xlim(max(low, -span), min(high, span))


def _value_row(axes: Axes, report: Mapping[str, Any], column: Column, model: str, name: str, y: int) -> None:
    score = column.find(report["scores"], model, name)
    if score is None:
        return
    compared = column.find(report["comparisons"], model, name)
    color = TREND_COLORS[compared["verdict"]] if compared else INK
    value, low, high = (100 * number(score[key]) for key in ("value", "low", "high"))
    _whisker(axes, value, low, high, y, color)


def _greedy_line(axes: Axes, report: Mapping[str, Any], column: Column, model: str) -> None:
    if greedy := column.find(report["scores"], model, GREEDY):
        axes.axvline(100 * number(greedy["value"]), color=MUTED, linewidth=0.9, dashes=(3, 2), zorder=1)


def _whisker(axes: Axes, value: float, low: float, high: float, y: float, color: str) -> None:
    axes.plot([low, high], [y, y], color=color, linewidth=1.7, solid_capstyle="round", zorder=3)
    axes.plot([value], [y], "o", color=color, markersize=4.6, zorder=4)


def _scatter(axes: Axes, report: Mapping[str, Any], column: Column, model: str) -> None:
    """Recall across, CHAIR_s upwards; names in a column at the right, tied to their points."""
    recall = Column(column.dataset, column.benchmark, "recall", column.group)
    points: list[tuple[float, float, str, str]] = []
    for name in [GREEDY, *_methods(report, model)]:
        found, kept = column.find(report["scores"], model, name), recall.find(report["scores"], model, name)
        if found is None or kept is None:
            continue
        compared = column.find(report["comparisons"], model, name)
        color = TREND_COLORS[compared["verdict"]] if compared else INK
        x, y = 100 * number(kept["value"]), 100 * number(found["value"])
        for score, across in ((kept, True), (found, False)):
            ends = [100 * number(score["low"]), 100 * number(score["high"])]
            line = (ends, [y, y]) if across else ([x, x], ends)
            axes.plot(*line, color=color, linewidth=1.0, alpha=0.35, zorder=2)
        axes.plot([x], [y], "D" if name == GREEDY else "o", color=color, markersize=6, zorder=4)
        points.append((x, y, name, color))
    axes.set_title(f"{column.group}: invented objects against recall", fontsize=9, loc="left", color=INK)
    axes.set_xlabel("recall, % \N{RIGHTWARDS ARROW} better", fontsize=8)
    axes.set_ylabel("captions with an invented object, % (lower is better)", fontsize=8)
    axes.grid(color=RULE, linewidth=0.6)
    axes.tick_params(length=0, labelsize=7.5, labelcolor=MUTED)
    _tie_names(axes, points)


def _tie_names(axes: Axes, points: Sequence[tuple[float, float, str, str]]) -> None:
    """The names in a column at the right, from top to bottom as their points, never over each other."""
    low, high = axes.get_ylim()
    axes.set_ylim(max(0.0, low), high)
    axes.set_xlim(right=min(axes.get_xlim()[1], 100.5))
    low = max(0.0, low)
    ordered = sorted(points, key=lambda p: -p[1])
    step, at, places = 0.068, math.inf, []
    for _, y, _, _ in ordered:
        at = min((y - low) / (high - low), at - step)
        places.append(at)
    lift = max(0.0, -places[-1])
    for (x, y, name, color), place in zip(ordered, places, strict=True):
        axes.annotate(
            name,
            xy=(x, y),
            xytext=(1.05, place + lift),
            textcoords="axes fraction",
            fontsize=8,
            color=color,
            va="center",
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": PALE, "linewidth": 0.5, "shrinkA": 1, "shrinkB": 4},
        )


def _title(axes: Axes, title: str, below: str) -> None:
    axes.set_title(title, loc="left", fontsize=8.2, color=INK, pad=17)
    axes.annotate(
        below, (0, 1), (0, 5), xycoords="axes fraction", textcoords="offset points", fontsize=7.5, color=MUTED
    )


def _margin_text(axes: Axes, text: str, y: float, color: str) -> None:
    axes.annotate(
        text,
        (1, y),
        (5, 0),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        va="center",
        fontsize=7.5,
        color=color,
    )
