"""How figures look, wherever they are drawn: the greys, and matplotlib's settings."""

from __future__ import annotations

from typing import Any

INK, MUTED, RULE, PALE = "#1f2933", "#6b7785", "#dfe3e8", "#98a2ae"
STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 9.0,
    "svg.fonttype": "none",
    "axes.edgecolor": RULE,
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "text.parse_math": False,
}
"""For `matplotlib.rc_context`. Text stays text in an SVG, so it takes the page's font."""
