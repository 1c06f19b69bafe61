"""Several interventions on one model at once: checked, ordered, counted, and gone afterwards.

A stack is data: a list of interventions, which may be given in any order and act in their
declared one. What is attached belongs to the model, so one stack at a time may be on a
model, whichever thread put it there, and only that thread should run it meanwhile. Stacks
on different models are independent, and one stack may be attached to several.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from threading import Lock
from typing import Any
from weakref import WeakSet

from torch import nn

from sightline.errors import InterventionError
from sightline.interventions.base import Calls, Intervention
from sightline.models.passes import listening
from sightline.models.vlm import Vlm

_LOCK = Lock()
_ATTACHED: WeakSet[Any] = WeakSet()
"""Models with a stack on them."""


class Stack:
    """Interventions in their declared order. `attached` is the only way in."""

    def __init__(self, interventions: Sequence[Intervention]):
        """Raises InterventionError when one kind is given twice."""
        self.interventions = tuple(sorted(interventions, key=lambda i: (i.order, i.name)))
        names = [intervention.name for intervention in self.interventions]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise InterventionError(
                expected="every intervention once in a stack",
                got=f"{twice[0]} {names.count(twice[0])} times",
                hint="join them into one (directions add up)",
            )

    def check(self, vlm: Vlm) -> None:
        """Refuse what cannot work on this model, before any work. Raises InterventionError."""
        if self.interventions:
            check_hookable(vlm.model)
        for intervention in self.interventions:
            intervention.check(vlm)

    @contextmanager
    def attached(self, vlm: Vlm) -> Iterator[None]:
        """All interventions act inside the `with`; then weights, hooks and config are as before.

        Raises InterventionError for what `check` refuses, for a model that has a stack on it
        already, and, when the `with` ends without another error, for a hook that was never
        called. A stack of nothing does nothing.
        """
        self.check(vlm)
        if not self.interventions:
            yield
            return
        calls = Calls()
        with ExitStack() as undo:
            undo.enter_context(_alone(vlm.model))
            passes = undo.enter_context(listening(vlm))
            for intervention in self.interventions:
                undo.enter_context(intervention.attached(vlm, calls))
            yield
        calls.check(passes)


@contextmanager
def _alone(model: Any) -> Iterator[None]:
    with _LOCK:
        if model in _ATTACHED:
            raise InterventionError(
                expected="a model without interventions",
                got="one that has a stack attached",
                hint="put all interventions into one Stack, or leave the other `with` first",
            )
        _ATTACHED.add(model)
    try:
        yield
    finally:
        with _LOCK:
            _ATTACHED.discard(model)


def check_hookable(model: nn.Module) -> None:
    """Refuse a model any part of which is compiled: its forward goes past hooks without a word.

    Raises InterventionError. Seen are `torch.compile(model)`, `model.compile()` and a compiled
    `forward`, on the model itself or on a part of it.
    """
    for name, module in model.named_modules():
        compiled = (
            hasattr(module, "_orig_mod")
            or getattr(module, "_compiled_call_impl", None) is not None
            or hasattr(module.forward, "_torchdynamo_orig_callable")
        )
        if compiled:
            raise InterventionError(
                expected="a model that is not compiled",
                got=f"a compiled {name or type(module).__name__}",
                hint="hooks would be ignored without an error; load the model plainly, or bake the steering",
            )
