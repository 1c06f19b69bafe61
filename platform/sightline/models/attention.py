"""Reading and changing the attention of chosen decoder layers, beside SDPA and without full maps.

A controlled layer's attention module is lent a copy of its config that names an attention
function of ours in transformers' AttentionInterface; the other layers, the decoder's config
and its masks stay what they are, and the module gets its own config object back on exit.
Our function hands each call to the layer's handlers in order: they see queries, keys and
values after the rotary embedding, and return the heads' outputs before `o_proj`. The
loaded back-end (SDPA or eager) computes whatever no handler has computed anew.

Only the rows of attention that handlers ask for are ever computed: those of the acting
queries (`acting`). Queries of one key head stand together, so grouped-query attention
repeats no key.

Names: B sequences of the pass, T its tokens, S keys (cache included), Q acting queries, N
most acting queries of a sequence, H query heads, J key heads, E head width.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol
from weakref import WeakKeyDictionary

import torch
from transformers import AttentionInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from sightline.errors import ModelError

if TYPE_CHECKING:
    from torch import nn

    from sightline.models.acting import Queries
    from sightline.models.vlm import Vlm

NAME = "sightline"
"""Our function's name in transformers' AttentionInterface."""
BACKENDS = ("sdpa", "eager")
"""What it can stand beside."""


class Handler(Protocol):
    """What a layer's attention is handed to."""

    def __call__(self, call: AttentionCall, /) -> torch.Tensor:
        """The heads' outputs (B, T, H, E) to go on with: `call.output_BTHE` if nothing changes.

        Must not write into `call.output_BTHE`.
        """
        ...


class AttentionCall:
    """One layer's attention in one forward pass, as its handlers see it."""

    def __init__(
        self,
        layer: int,
        query_BHTE: torch.Tensor,
        keys_BJSE: torch.Tensor,
        values_BJSE: torch.Tensor,
        mask_BHTS: torch.Tensor | None,
        scaling: float,
        base: Callable[[], tuple[torch.Tensor, torch.Tensor | None]],
    ):
        self.layer = layer
        self.query_BHTE, self.keys_BJSE, self.values_BJSE = query_BHTE, keys_BJSE, values_BJSE
        self.mask_BHTS = mask_BHTS
        """The back-end's mask, which broadcasts: bool or additive; None = causal or none."""
        self.scaling = scaling
        self._base = base
        self._output_BTHE: torch.Tensor | None = None
        self._logits_QHS: torch.Tensor | None = None
        self._weights_QHS: torch.Tensor | None = None

    @property
    def output_BTHE(self) -> torch.Tensor:
        """The heads' outputs so far: the back-end's, as changed by earlier handlers."""
        if self._output_BTHE is None:
            self.computed()
        assert self._output_BTHE is not None
        return self._output_BTHE

    def computed(self) -> torch.Tensor | None:
        """Have the back-end compute its output; eager's maps (B, H, T, S) if it has made any."""
        self._output_BTHE, maps_BHTS = self._base()
        return maps_BHTS

    def take(self, output_BTHE: torch.Tensor) -> None:
        """Go on with what a handler returned."""
        self._output_BTHE = output_BTHE

    def logits_QHS(self, queries: Queries) -> torch.Tensor:
        """The acting queries' logits before mask and softmax, as changed by earlier handlers."""
        if self._logits_QHS is None:
            self._logits_QHS = self._products(self.query_QHE(queries), self.keys_BJSE.mT, queries)
            self._logits_QHS = self._logits_QHS * self.scaling
        return self._logits_QHS

    def weights_QHS(self, queries: Queries) -> torch.Tensor:
        """The acting queries' attention weights, float32, 0 at keys they do not see."""
        if self._weights_QHS is None:
            logits_QHS = self.logits_QHS(queries)
            if queries.hidden_Q1S is not None:
                logits_QHS = logits_QHS.masked_fill(queries.hidden_Q1S, float("-inf"))
            self._weights_QHS = logits_QHS.softmax(-1, dtype=torch.float32)
        return self._weights_QHS

    def image_logits_QH(self, queries: Queries) -> torch.Tensor:
        """Each acting query's logits summed over the image tokens it sees.

        A sum of products with one query is one product with the keys' sum, which takes one
        pass over the keys a key head, not a query head. Zero for queries without an image.
        """
        if self._logits_QHS is not None:
            return self._logits_QHS.masked_fill(~queries.image_QS.unsqueeze(1), 0.0).sum(-1)
        sequences, key_heads = self.keys_BJSE.shape[:2]
        image_BNS = queries.slotted(queries.image_QS.to(self.keys_BJSE.dtype), sequences)
        sums_BJNE = image_BNS.unsqueeze(1) @ self.keys_BJSE
        sums_QJE1 = queries.unslotted(sums_BJNE.transpose(1, 2)).unsqueeze(-1).float()
        query_QJGE = self.query_QHE(queries).unflatten(1, (key_heads, -1)).float()
        return (query_QJGE @ sums_QJE1).flatten(1) * self.scaling

    def query_QHE(self, queries: Queries) -> torch.Tensor:
        """The acting queries themselves."""
        if queries.step:
            return self.query_BHTE[:, :, 0]
        return self.query_BHTE[queries.group_Q, :, queries.place_Q]

    def output_QHE(self, queries: Queries) -> torch.Tensor:
        """The acting queries' outputs so far.

        On a decoding step whose weights a handler has asked for, they are computed from these,
        and the back-end need not run.
        """
        whole = queries.step and queries.all_shown
        if whole and self._output_BTHE is None and self._weights_QHS is not None:
            return self.attend(queries)
        if queries.step:
            return self.output_BTHE[:, 0]
        return self.output_BTHE[queries.group_Q, queries.place_Q]

    def placed(self, queries: Queries, output_QHE: torch.Tensor) -> torch.Tensor:
        """The outputs (B, T, H, E) with the acting queries' replaced, a new tensor.

        Queries without an image keep theirs, bit for bit.
        """
        if queries.step and queries.all_shown:
            return output_QHE.unsqueeze(1)
        if not queries.all_shown:
            output_QHE = torch.where(queries.shown_Q[:, None, None], output_QHE, self.output_QHE(queries))
        output_BTHE = self.output_BTHE.clone()
        output_BTHE[queries.group_Q, queries.place_Q] = output_QHE
        return output_BTHE

    def attend(self, queries: Queries, logits_QHS: torch.Tensor | None = None) -> torch.Tensor:
        """The acting queries' outputs (Q, H, E) computed from their weights, not by the back-end.

        With `logits_QHS` given, these (before mask and softmax) take the place of the model's,
        for later handlers too.
        """
        if logits_QHS is not None:
            self._logits_QHS, self._weights_QHS = logits_QHS, None
        weights_QHS = self.weights_QHS(queries).to(self.values_BJSE.dtype)
        return self._products(weights_QHS, self.values_BJSE, queries)

    def _products(self, left_QHX: torch.Tensor, right_BJXY: torch.Tensor, queries: Queries) -> torch.Tensor:
        """(Q, H, X) times each sequence's (J, X, Y), query heads with their key head: (Q, H, Y)."""
        sequences, key_heads, _, _ = right_BJXY.shape
        left_BNHX = queries.slotted(left_QHX, sequences)
        slots, heads = left_BNHX.shape[1:3]
        # (B, N, J, G, X) -> (B, J, N, G, X): G query heads share a key head.
        grouped = left_BNHX.unflatten(2, (key_heads, -1)).transpose(1, 2).flatten(2, 3)
        product = (grouped @ right_BJXY).unflatten(2, (slots, heads // key_heads)).transpose(1, 2)
        return queries.unslotted(product.flatten(2, 3))


@contextmanager
def attention_control(vlm: Vlm, handlers: Mapping[int, Sequence[Handler]]) -> Iterator[None]:
    """Hand the attention of decoder blocks (layer: handlers in order) over, and put it back.

    Contexts nest: an inner one's handlers come after those of the outer ones. Raises
    ModelError for a layer the model does not have and for a back-end other than SDPA or eager.
    """
    modules = vlm.adapter.attentions(vlm.model)
    for layer in handlers:
        if not 0 <= layer < len(modules):
            raise ModelError(expected=f"a layer from 0 to {len(modules) - 1}", got=str(layer))
    check_backend(vlm.adapter.decoder(vlm.model).config)
    with controlled({modules[layer]: (layer, chain) for layer, chain in handlers.items()}):
        yield


@contextmanager
def controlled(modules: Mapping[nn.Module, tuple[int, Sequence[Handler]]]) -> Iterator[None]:
    """`attention_control` of modules that call transformers' AttentionInterface themselves.

    Each module comes with the layer number its handlers are to be told.
    """
    AttentionInterface.register(NAME, _attention)
    with ExitStack() as stack:
        for module, (layer, handlers) in modules.items():
            stack.enter_context(_lent(module, layer, handlers))
        yield


def check_backend(config: Any) -> None:
    """Refuse attention that is neither SDPA nor eager. Raises ModelError."""
    if config._attn_implementation not in (*BACKENDS, NAME):
        raise ModelError(
            expected=f"a model loaded with attention {' or '.join(BACKENDS)}",
            got=repr(config._attn_implementation),
            hint="load it with model.attention=sdpa",
        )


@dataclass(slots=True)
class _Control:
    """What a controlled module runs: its own back-end and everybody's handlers."""

    backend: str
    layer: int
    handlers: list[Handler]


_CONTROLS: WeakKeyDictionary[nn.Module, _Control] = WeakKeyDictionary()


@contextmanager
def _lent(module: Any, layer: int, handlers: Sequence[Handler]) -> Iterator[None]:
    """One module with its attention handed over."""
    if module in _CONTROLS:
        control = _CONTROLS[module]
        before = control.handlers
        control.handlers = [*before, *handlers]
        try:
            yield
        finally:
            control.handlers = before
        return
    own = module.config
    backend = own._attn_implementation
    lent = copy.copy(own)
    lent._attn_implementation = NAME
    _CONTROLS[module] = _Control(backend, layer, list(handlers))
    module.config = lent
    try:
        yield
    finally:
        module.config = own
        del _CONTROLS[module]


def _attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """What transformers calls in a controlled module; (B, T, H, E), and eager's maps."""
    control = _CONTROLS[module]
    # Each modelling file has an eager function of its own, which its attention classes call.
    eager: Any = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
    backend = ALL_ATTENTION_FUNCTIONS.get_interface(control.backend, eager)
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling

    def base() -> tuple[torch.Tensor, torch.Tensor | None]:
        return backend(module, query, key, value, attention_mask, scaling=scaling, **kwargs)

    call = AttentionCall(control.layer, query, key, value, attention_mask, scaling, base)
    # Eager's maps are part of its answer (`output_attentions`): as they were before any handler.
    maps_BHTS = call.computed() if control.backend == "eager" else None
    for handler in control.handlers:
        call.take(handler(call))
    return call.output_BTHE, maps_BHTS
