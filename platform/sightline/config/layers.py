"""Which decoder blocks a method acts on, as a list or as text: `0-3+8` is 0, 1, 2, 3 and 8."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, NonNegativeInt

_STRETCH = re.compile(r"(\d+)(?:-(\d+))?")


def read_layers(value: Any) -> Any:
    """`0-12` counts both ends, `+` joins: `0-3+8`. A number is one layer; a list stays a list."""
    if isinstance(value, int) and not isinstance(value, bool):
        return (value,)
    if not isinstance(value, str):
        return value
    stretches = [_STRETCH.fullmatch(part) for part in value.replace(" ", "").split("+")]
    if not all(stretches):
        raise ValueError("expected layers from 0 such as 0-12 (both ends count), 8, or 0-3+8")
    ends = [(int(s[1]), int(s[2] or s[1])) for s in stretches if s]
    if any(last < first for first, last in ends):
        raise ValueError("expected a stretch of layers that ends after it begins, such as 0-12")
    return tuple(layer for first, last in ends for layer in range(first, last + 1))


def write_layers(layers: Sequence[int]) -> str:
    """The inverse of `read_layers`, for layers in order."""
    starts = [0] + [i + 1 for i, (a, b) in enumerate(pairwise(layers)) if b != a + 1]
    runs = [layers[a:b] for a, b in pairwise([*starts, len(layers)])]
    return "+".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def _in_order(layers: tuple[int, ...]) -> tuple[int, ...]:
    if len(set(layers)) < len(layers):
        raise ValueError("expected every layer once")
    return tuple(sorted(layers))


Layers = Annotated[
    tuple[NonNegativeInt, ...],
    BeforeValidator(read_layers),
    AfterValidator(_in_order),
    Field(min_length=1),
]
"""Decoder blocks from 0, ascending: layer i is what block i does or gives out."""
