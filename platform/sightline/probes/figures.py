"""One probe's figures, and the look that all figures of probes share.

Drawn by matplotlib on its object interface: no display is needed, and the style is put
back after each figure. PNG for folders and the README, SVG for the page.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import matplotlib as mpl

from sightline.look import INK, MUTED, PALE, RULE, STYLE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

KIND_COLORS = {
    "query_token": "#0f766e",
    "prompt_token": "#7c5cad",
    "vision_token": "#b7791f",
    "answer_mean": "#2f6fb0",
    "vision_only": "#8a5a2b",
}


def confusion_png(result: Mapping[str, Any]) -> bytes:
    """Counts at the chosen threshold, with each row's share."""
    with mpl.rc_context(STYLE):
        figure = blank(4.2, 3.7)
        axes = figure.add_axes((0.26, 0.2, 0.7, 0.62))
        _confusion(axes, result)
        _title(figure, result, f"threshold {result['best_threshold']['threshold']:.2f}")
        return png(figure)


def roc_png(result: Mapping[str, Any]) -> bytes:
    """The ROC curve with its area and interval."""
    with mpl.rc_context(STYLE):
        figure = blank(4.2, 4.2)
        _roc(figure.add_axes((0.15, 0.13, 0.81, 0.72)), result)
        _title(figure, result, f"AUROC {interval(result['auroc'])}")
        return png(figure)


def history_png(result: Mapping[str, Any]) -> bytes:
    """Loss and validation AUROC by epoch; the epoch that was kept is marked."""
    with mpl.rc_context(STYLE):
        figure = blank(7.4, 3.2)
        loss, area = figure.add_axes((0.075, 0.15, 0.40, 0.60)), figure.add_axes((0.57, 0.15, 0.40, 0.60))
        _history(loss, result, (("train_loss", "training", PALE), ("valid_loss", "validation", "#0f766e")))
        _history(area, result, (("valid_auroc", "validation", "#0f766e"),))
        loss.set_title("loss", loc="left", fontsize=9, color=MUTED)
        area.set_title("AUROC on validation rows", loc="left", fontsize=9, color=MUTED)
        kept = f"epoch {result['stopped']} kept" if result["stopped"] else "nothing is trained"
        _title(figure, result, kept)
        return png(figure)


def calibration_png(result: Mapping[str, Any]) -> bytes:
    """Predicted against observed share, before and after calibration."""
    with mpl.rc_context(STYLE):
        figure = blank(4.2, 4.2)
        _calibration(figure.add_axes((0.15, 0.13, 0.81, 0.72)), result)
        _title(figure, result, f"ECE {number(result['ece'])}")
        return png(figure)


def best_svg(result: Mapping[str, Any]) -> str:
    """One probe's four panels in a row, for the page."""
    with mpl.rc_context(STYLE):
        figure = blank(10.6, 2.9)
        panels = [figure.add_axes((0.045 + 0.25 * i, 0.17, 0.19, 0.68)) for i in range(4)]
        titles = ("ROC", "calibration", "answering the least suspect", "loss by epoch")
        for axes, title in zip(panels, titles, strict=True):
            axes.set_title(title, loc="left", fontsize=9, color=INK)
        _roc(panels[0], result)
        _calibration(panels[1], result)
        _risk(panels[2], result)
        _history(
            panels[3], result, (("train_loss", "training", PALE), ("valid_loss", "validation", "#0f766e"))
        )
        return svg(figure, "best")


def interval(estimate: Mapping[str, Any] | None) -> str:
    """`0.93 (0.91 to 0.95)`; a dash when undefined."""
    if estimate is None or estimate["value"] is None:
        return "\N{EN DASH}"
    if estimate["low"] is None:
        return number(estimate["value"])
    return f"{number(estimate['value'])} ({number(estimate['low'])} to {number(estimate['high'])})"


def _roc(axes: Axes, result: Mapping[str, Any]) -> None:
    axes.plot([0, 1], [0, 1], color=PALE, linewidth=1, linestyle=(0, (4, 3)))
    xs, ys = zip(*result["curves"]["roc"], strict=True)
    axes.plot(xs, ys, color="#0f766e", linewidth=1.9, drawstyle="default")
    _unit_square(axes, "false positive rate", "true positive rate")


def _calibration(axes: Axes, result: Mapping[str, Any]) -> None:
    axes.plot([0, 1], [0, 1], color=PALE, linewidth=1, linestyle=(0, (4, 3)))
    for key, name, color in (
        ("reliability_uncalibrated", f"as trained, ECE {number(result['ece_uncalibrated'])}", PALE),
        ("reliability", f"calibrated, ECE {number(result['ece'])}", "#0f766e"),
    ):
        points = result["curves"][key]
        total = sum(count for _, _, count in points) or 1
        axes.plot(
            [p for p, _, _ in points], [s for _, s, _ in points], color=color, linewidth=1.4, label=name
        )
        sizes = [14 + 150 * count / total for _, _, count in points]
        axes.scatter(
            [p for p, _, _ in points], [s for _, s, _ in points], s=sizes, color=color, zorder=3, lw=0
        )
    axes.legend(frameon=False, fontsize=7.5, loc="upper left", handlelength=1.2, borderaxespad=0.2)
    _unit_square(axes, "predicted probability", "share hallucinated")


def _risk(axes: Axes, result: Mapping[str, Any]) -> None:
    xs, ys = zip(*result["curves"]["risk_coverage"], strict=True)
    axes.axhline(result["base_rate"], color=PALE, linewidth=1, linestyle=(0, (4, 3)))
    axes.plot(xs, ys, color="#0f766e", linewidth=1.9)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, None)
    _quiet(axes, "share answered", "share hallucinated")


def _history(axes: Axes, result: Mapping[str, Any], lines: Sequence[tuple[str, str, str]]) -> None:
    from matplotlib.ticker import MaxNLocator

    for key, name, color in lines:
        points = [(e["epoch"], e[key]) for e in result["history"] if e[key] is not None]
        if points:
            axes.plot(*zip(*points, strict=True), color=color, linewidth=1.7, label=name)
    if not axes.lines:
        axes.text(0.5, 0.5, "not recorded", ha="center", color=MUTED, transform=axes.transAxes)
    elif len(lines) > 1:
        axes.legend(frameon=False, fontsize=8)
    if result["stopped"] and axes.lines and result["stopped"] < len(result["history"]):
        axes.axvline(result["stopped"], color=MUTED, linewidth=0.9, linestyle=(0, (2, 2)))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    _quiet(axes, "epoch", "")


def _confusion(axes: Axes, result: Mapping[str, Any]) -> None:
    c = result["confusion"]
    table = [
        [c["true_negative"], c["false_positive"]],
        [c["false_negative"], c["true_positive"]],
    ]
    shares = [[n / (sum(row) or 1) for n in row] for row in table]
    axes.imshow(
        shares,
        cmap=mpl.colors.LinearSegmentedColormap.from_list("teal", ["#f4f6f7", "#0f766e"]),
        vmin=0,
        vmax=1,
    )
    for i, row in enumerate(table):
        for j, n in enumerate(row):
            color = "white" if shares[i][j] > 0.55 else INK
            axes.text(j, i - 0.06, f"{n:,}", ha="center", va="center", color=color, fontsize=14)
            axes.text(
                j,
                i + 0.22,
                f"{shares[i][j]:.0%} of the row",
                ha="center",
                va="center",
                color=color,
                fontsize=7.5,
            )
    axes.set_xticks([0, 1], ["says fine", "says hallucinated"])
    axes.set_yticks([0, 1], ["is fine", "is hallucinated"])
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_aspect("auto")


def _title(figure: Figure, result: Mapping[str, Any], text: str) -> None:
    inch = 1 / figure.get_figheight()
    figure.text(0.03, 1 - 0.1 * inch, result["site"], fontsize=10.5, fontweight="bold", va="top")
    rows = result["rows"]["test"]
    note = f"{text}   \N{MIDDLE DOT}   {rows['n']:,} test rows, {rows['hallucinated']:,} hallucinated"
    figure.text(0.03, 1 - 0.33 * inch, note, fontsize=8, color=MUTED, va="top")


def _unit_square(axes: Axes, x: str, y: str) -> None:
    axes.set_xlim(-0.01, 1.01)
    axes.set_ylim(-0.01, 1.01)
    _quiet(axes, x, y)


def _quiet(axes: Axes, x: str, y: str) -> None:
    axes.set_xlabel(x, fontsize=8)
    axes.set_ylabel(y, fontsize=8)
    axes.grid(color=RULE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, labelsize=8)


def number(value: float | None) -> str:
    return "\N{EN DASH}" if value is None else f"{value:.2f}"


def blank(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height))


def png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=160, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()


def svg(figure: Figure, name: str) -> str:
    """The figure as inline SVG: no XML header, no date, ids that do not clash on one page."""
    buffer = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": name, "svg.id": name}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
