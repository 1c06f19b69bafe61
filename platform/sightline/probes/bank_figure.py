"""The bank at a glance: AUROC by layer and site with intervals, beside what the controls score."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import matplotlib as mpl

from sightline.look import INK, MUTED, RULE, STYLE
from sightline.probes.figures import KIND_COLORS, blank, number, png, svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CONTROL_COLORS = {
    "question_type": "#b4530a",
    "text_only": "#a3324a",
    "image_only": "#8a5a2b",
    "shuffled_labels": "#98a2ae",
}
_MARKERS = {
    "query_token": "o",
    "prompt_token": "v",
    "vision_token": "s",
    "answer_mean": "^",
    "vision_only": "D",
}
_LABEL_GAP = 0.05
"""Least distance of controls' names, as a share of the axis."""
_SHORT = {"question_type": "question's kind", "text_only": "question's words", "image_only": "image"}


def bank_png(report: Mapping[str, Any]) -> bytes:
    """AUROC by layer and site with intervals, over all questions and within kinds, beside the controls."""
    with mpl.rc_context(STYLE):
        figure = blank(11.6, 5.0)
        _bank(figure, report, top=0.775)
        _caption(figure, report)
        return png(figure)


def bank_svg(report: Mapping[str, Any]) -> str:
    """The same without its headline, for the page."""
    with mpl.rc_context(STYLE):
        figure = blank(10.6, 4.2)
        _bank(figure, report, top=0.86)
        return svg(figure, "bank")


def _bank(figure: Figure, report: Mapping[str, Any], *, top: float) -> None:
    """Two panels on one scale: all questions, and within kinds of question."""
    bottom, tall = 0.125, top - 0.125
    left = figure.add_axes((0.05, bottom, 0.345, tall))
    right = figure.add_axes((0.53, bottom, 0.345, tall), sharey=left)
    left.set_ylim(*_range(report))
    places = _places(report["sites"])
    for axes, key, title in (
        (left, "auroc", "All questions"),
        (right, "within_kind", "Within one kind of question"),
    ):
        axes.set_title(title, loc="left", fontsize=10, color=INK, pad=7)
        _control_lines(axes, report["controls"], key)
        _site_lines(axes, report["sites"], places, key, label=axes is left)
        _layer_axis(axes, places)
    left.set_ylabel("AUROC on test rows")
    right.tick_params(labelleft=False)
    handles, names = left.get_legend_handles_labels()
    figure.legend(
        handles,
        names,
        loc="lower right",
        bbox_to_anchor=(0.995, top + 0.065),
        ncols=len(names),
        frameon=False,
        fontsize=8.5,
        handletextpad=0.5,
        columnspacing=1.6,
    )


def _range(report: Mapping[str, Any]) -> tuple[float, float]:
    """Of the AUROC axis: all intervals, and chance."""
    bounds = [
        bound
        for each in [*report["sites"], *report["controls"].values()]
        for key in ("auroc", "within_kind")
        if each[key]
        for bound in (each[key]["low"], each[key]["high"], each[key]["value"])
        if bound is not None
    ]
    return min([0.47, *bounds]) - 0.02, min(1.005, max([0.6, *bounds]) + 0.03)


def _places(sites: Sequence[Mapping[str, Any]]) -> dict[Any, int]:
    """Where each layer stands: the vision tower first, then the embedding and the layers, evenly."""
    layers = sorted({each["layer"] for each in sites if each["layer"] is not None})
    first = [None] if any(each["layer"] is None for each in sites) else []
    return {layer: i for i, layer in enumerate([*first, *layers])}


def _layer_axis(axes: Axes, places: Mapping[Any, int]) -> None:
    names = {None: "vision\ntower", -1: "embed-\nding"}
    axes.set_xticks(list(places.values()), [names.get(layer, str(layer)) for layer in places])
    axes.set_xlim(-0.5, len(places) - 0.5)
    axes.set_xlabel("decoder block")
    axes.grid(axis="y", color=RULE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(length=0)


def _site_lines(
    axes: Axes, sites: Sequence[Mapping[str, Any]], places: Mapping[Any, int], key: str, *, label: bool
) -> None:
    """One line a kind of position, whiskers for intervals, pale dots for further seeds."""
    kinds = list(dict.fromkeys(each["kind"] for each in sites))
    for n, kind in enumerate(kinds):
        shift = 0.0 if kind == "vision_only" else 0.11 * (n - (len(kinds) - 1) / 2)
        color = KIND_COLORS.get(kind, INK)
        chosen = [
            each for each in sites if each["kind"] == kind and each[key] and each[key]["value"] is not None
        ]
        xs = [places[each["layer"]] + shift for each in chosen]
        ys = [each[key]["value"] for each in chosen]
        for x, each in zip(xs, chosen, strict=True):
            if each[key]["low"] is not None:
                axes.plot([x, x], [each[key]["low"], each[key]["high"]], color=color, linewidth=1.2, zorder=3)
            if key == "auroc":
                others = each["seeds"][1:]
                axes.plot(
                    [x + 0.06] * len(others), others, "o", color=color, alpha=0.35, markersize=3, zorder=3
                )
        look: Any = {"color": color, "marker": _MARKERS.get(kind, "o"), "markersize": 6.0, "linewidth": 1.6}
        name = kind.replace("_", " ") if label else None
        axes.plot(xs, ys, markeredgecolor="white", zorder=4, label=name, **look)


def _control_lines(axes: Axes, controls: Mapping[str, Mapping[str, Any]], key: str) -> None:
    """A dashed line a control, named in the margin; names that would touch are moved apart."""
    axes.axhline(0.5, color=INK, linewidth=0.8, zorder=1)
    found = [
        (c[key]["value"], name, c) for name, c in controls.items() if c[key] and c[key]["value"] is not None
    ]
    found.sort(key=lambda each: each[0])
    bottom, top = axes.get_ylim()
    heights = _apart([value for value, _, _ in found], _LABEL_GAP * (top - bottom))
    for (value, name, control), height in zip(found, heights, strict=True):
        color = CONTROL_COLORS.get(name, MUTED)
        axes.axhline(value, color=color, linewidth=1.3, linestyle=(0, (4, 2)), zorder=2)
        axes.annotate(
            f"{number(value)}  {_SHORT.get(name, control['label'])}",
            (1.0, value),
            xytext=(1.025, height),
            xycoords=("axes fraction", "data"),
            textcoords=("axes fraction", "data"),
            color=color,
            fontsize=8,
            va="center",
            arrowprops={"arrowstyle": "-", "color": color, "linewidth": 0.6, "shrinkA": 0, "shrinkB": 0},
        )


def _apart(heights: Sequence[float], gap: float) -> list[float]:
    """Rising heights at least `gap` apart, each close group kept around its own middle."""
    groups: list[list[float]] = []
    for height in heights:
        groups.append([height])
        while len(groups) > 1 and _bottom(groups[-1], gap) < _bottom(groups[-2], gap) + gap * len(groups[-2]):
            last = groups.pop()
            groups[-1] += last
    return [_bottom(group, gap) + gap * i for group in groups for i in range(len(group))]


def _bottom(group: Sequence[float], gap: float) -> float:
    return sum(group) / len(group) - gap * (len(group) - 1) / 2


def _caption(figure: Figure, report: Mapping[str, Any]) -> None:
    inch = 1 / figure.get_figheight()
    lines = textwrap.wrap(report["headline"], 118)[:2]
    figure.text(0.012, 1 - 0.12 * inch, "\n".join(lines), fontsize=11.5, fontweight="bold", va="top")
    note = (
        f"{report['model_name']}, {report['rows']['test']['n']:,} test rows, split by {report['split']}. "
        f"Whiskers: {report['confidence']:.0%} bootstrap intervals by image. Dashed: what the "
        "controls score, without the probe."
    )
    if report["refused"]:
        note += f"\nNo probe at {', '.join(report['refused'])}: see summary.html."
    below = 0.42 if len(lines) == 1 else 0.63
    figure.text(0.012, 1 - below * inch, note, fontsize=8, color=MUTED, va="top")
