"""The figure of derived directions: by layer, how much of the differences they stand for.

left    explained: share of the variance around the mean that the kept axes carry
middle  shared: how alike the differences are (1 = all equal), beside 1/N, what N differences that
        have nothing in common would show
right   norm of the direction, on a logarithmic scale
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sightline.look import INK, MUTED, RULE, STYLE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLORS = {"text": "#0f766e", "visual": "#5b6b9a"}
_PANELS = (
    ("explained", "Variance on the kept axes"),
    ("shared", "Shared by all differences"),
    ("norm", "Norm of the direction"),
)


def directions_png(report: Mapping[str, Any]) -> bytes:
    """The figure of a derivation's report, as PNG."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(11.6, 3.3))
        for index, (name, title) in enumerate(_PANELS):
            axes = figure.add_subplot(1, len(_PANELS), index + 1)
            axes.set_title(title, loc="left", fontsize=9.5, color=INK, pad=6)
            for kind, facts in report["kinds"].items():
                _curve(axes, kind, facts[name], label_kind=len(report["kinds"]) > 1 or index == 0)
                if name == "shared":
                    axes.axhline(1 / facts["differences"], color=COLORS[kind], linewidth=0.8, linestyle=":")
            if name == "norm":
                axes.set_yscale("log")
            else:
                axes.set_ylim(0, 1.02)
                axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
            _quiet(axes)
        _caption(figure, report)
        figure.subplots_adjust(left=0.05, right=0.955, top=0.68, bottom=0.16, wspace=0.28)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=150, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()


def _curve(axes: Axes, kind: str, values: list[float], *, label_kind: bool) -> None:
    axes.plot(range(len(values)), values, "o-", color=COLORS[kind], linewidth=1.7, markersize=4.5)
    if label_kind:
        axes.annotate(
            kind,
            (len(values) - 1, values[-1]),
            (7, 0),
            textcoords="offset points",
            va="center",
            color=COLORS[kind],
        )


def _quiet(axes: Axes) -> None:
    axes.set_xlabel("block")
    axes.locator_params(axis="x", integer=True)
    axes.margins(x=0.08)
    axes.grid(axis="y", color=RULE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(length=0)


def _caption(figure: Any, report: Mapping[str, Any]) -> None:
    settings, how = report["derive"], report["perturbation"]
    counts = [f"{facts['differences']} differences ({kind})" for kind, facts in report["kinds"].items()]
    amount = ", ".join(f"{name} {value:g}" for name, value in how.items() if name != "type")
    figure.text(
        0.012,
        0.965,
        f"Steering directions of {report['model']['source']}: {', '.join(counts)}",
        fontsize=11,
        fontweight="bold",
        va="top",
    )
    note = (
        f"Text: clean minus hallucinated caption, last token, decoder blocks. Visual: mean of "
        f"{settings['trials']} trials of {how['type']} ({amount}) minus the image, vision blocks. "
        f"Mean plus rank {settings['rank']}, {settings['mode']} mode. Dotted: one over the "
        f"number of differences."
    )
    figure.text(0.012, 0.885, "\n".join(textwrap.wrap(note, 185)), fontsize=7.8, color=MUTED, va="top")
