"""What an intervention is, and the count of what its hooks did.

An intervention changes a model's forward passes inside a `with` and leaves no trace. It
says where it acts (vision tower or decoder, which blocks, which tokens), refuses models it
cannot act on before anything is attached, and is right for any batch: whom it touches comes
from `models.passes`, never from a place counted from either end of a padded sequence.

Interventions are combined by `stack.Stack`, in the order of their `order`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import ClassVar, ParamSpec, TypeVar

from sightline.errors import InterventionError
from sightline.models.passes import Passes
from sightline.models.vlm import Vlm

P = ParamSpec("P")
T = TypeVar("T")


class Calls:
    """How often each hook of a stack was called. A hook that never was did nothing, unseen."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._in_vision: set[str] = set()

    def counted(self, name: str, function: Callable[P, T], *, vision: bool = False) -> Callable[P, T]:
        """`function`, counted under a name of its own, such as "text_vti at block 3".

        `vision` hooks are called only when an image is shown.
        """
        if name in self._counts:
            raise InterventionError(expected="a name of its own for every hook", got=f"{name!r} twice")
        self._counts[name] = 0
        if vision:
            self._in_vision.add(name)

        def counting(*args: P.args, **kwargs: P.kwargs) -> T:
            self._counts[name] += 1
            return function(*args, **kwargs)

        return counting

    def check(self, passes: Passes) -> None:
        """Raise InterventionError for hooks that were never called."""
        blind = passes.forwards > 0 and not passes.saw_image
        idle = [n for n, count in self._counts.items() if not count and not (blind and n in self._in_vision)]
        if idle:
            more = f" and {len(idle) - 1} more" if idle[1:] else ""
            raise InterventionError(
                expected="every hook to be called",
                got=f"no call of {idle[0]}{more} in {passes.forwards} forward passes of the decoder",
                hint="answer at least one prompt inside the `with`, by a model that is not compiled",
            )


class Intervention(ABC):
    """One change of a model's forward passes. Holds settings and directions, nothing of a model."""

    name: ClassVar[str]
    order: ClassVar[int]
    """Place in a stack: vision steering 10, text steering 20, attention boost 30, head suppression 40."""

    @abstractmethod
    def check(self, vlm: Vlm) -> None:
        """Refuse, before anything is attached, what can never work. Raises InterventionError."""

    @abstractmethod
    def attached(self, vlm: Vlm, calls: Calls) -> AbstractContextManager[None]:
        """Act inside the `with`; afterwards the model is bit-equal to what it was.

        Every hook and handler goes through `calls.counted`. Called after `check`, inside
        `models.passes.listening`.
        """


def chosen_layers(name: str, layers: Sequence[int] | None, count: int) -> tuple[int, ...]:
    """The blocks an intervention acts on, ascending: `layers`, or all `count` of them.

    Raises InterventionError for none, for one twice, and for one that is not there.
    """
    if layers is None:
        return tuple(range(count))
    wrong = [layer for layer in layers if not 0 <= layer < count]
    if wrong or not layers or len(set(layers)) < len(layers):
        raise InterventionError(
            expected=f"layers from 0 to {count - 1} for {name}, each once",
            got=", ".join(map(str, wrong or layers)) or "none",
        )
    return tuple(sorted(layers))


def check_finite(name: str, setting: str, value: float) -> None:
    """Raise InterventionError unless the value is a finite number."""
    if not math.isfinite(value):
        raise InterventionError(expected=f"a finite {setting} for {name}", got=str(value))
