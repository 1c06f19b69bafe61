"""How figures and pages look, wherever they are made: the greys, matplotlib's and Jinja's settings."""

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


def pages(package: str) -> Any:
    """Jinja's environment of the templates in `package`/page: escaping, and strict about names."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader(package, "page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
