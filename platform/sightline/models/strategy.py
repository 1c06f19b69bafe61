"""What chooses the next token where the largest logit does not: the seam under `decoding`.

A row may be decoded as several *streams*: the same answer after different prompts (the
image spoiled, the image or the reference left out). All streams of a row are fed the same
chosen token, so a strategy can compare what the model thinks of it under each. A strategy
may also ask for the outputs of blocks before the last.

It decides on what one step shows and keeps nothing from step to step, so a row's tokens
cannot depend on its neighbours.

Names: K streams, R rows being decoded, N = R * K sequences (a row's streams adjacent),
L layers, V vocabulary, D width, G and T as in `prefix`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch

from sightline.activations.sites import EMBEDDING
from sightline.errors import ModelError

if TYPE_CHECKING:
    from sightline.models.adapters.base import Adapter


@dataclass(frozen=True, slots=True)
class Step:
    """What is known when the next token of each row is chosen."""

    logits_KRV: torch.Tensor
    """float32; stream 0 is the row's own prompt."""
    early_LRD: torch.Tensor
    """Outputs of the strategy's `layers` in stream 0, in their order, before any norm."""
    norm: Callable[[torch.Tensor], torch.Tensor]
    """The decoder's final norm, (..., D) -> (..., D)."""
    head: Callable[[torch.Tensor], torch.Tensor]
    """The language-model head, (..., D) -> (..., V), in the model's own precision."""
    generated: Sequence[Sequence[int]]
    """Each row's tokens so far."""

    def project(self, hidden_D: torch.Tensor) -> torch.Tensor:
        """Logits (..., V), float32, as if the decoder had ended with this state (..., D)."""
        return self.head(self.norm(hidden_D)).float()


class Strategy(Protocol):
    """How the next token is scored. The engine takes the largest score, or samples."""

    @property
    def layers(self) -> tuple[int, ...]:
        """Blocks whose output at the deciding token it wants; -1 is what enters block 0."""

    def scores(self, step: Step) -> torch.Tensor:
        """(R, V), as logits are: -inf forbids a token, a constant a row changes nothing."""


class EarlyOutputs:
    """What chosen blocks put out at the deciding tokens, forward by forward.

    Hooks, and only inside `attached`. They see what the blocks give after every hook that
    was there before them, hence under an intervention the intervened state.
    """

    def __init__(self, adapter: Adapter, model: Any, layers: Sequence[int]):
        """Raises ModelError for a layer that the decoder does not have."""
        self._blocks = adapter.text_blocks(model)
        wrong = [layer for layer in layers if not EMBEDDING <= layer < len(self._blocks)]
        if wrong:
            raise ModelError(
                expected=f"layers from {EMBEDDING} (the embedding) to {len(self._blocks) - 1}",
                got=", ".join(map(str, wrong)),
            )
        self._layers = tuple(layers)
        self._sequences: Any = None
        self._places: Any = None
        self._kept: dict[int, torch.Tensor] = {}

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Hooks that are gone when the `with` ends."""
        with ExitStack() as stack:
            for layer in set(self._layers):
                if layer == EMBEDDING:
                    handle = self._blocks[0].register_forward_pre_hook(
                        lambda module, args: self._keep(EMBEDDING, args[0])
                    )
                else:
                    handle = self._blocks[layer].register_forward_hook(
                        lambda module, args, output, layer=layer: self._keep(layer, output)
                    )
                stack.callback(handle.remove)
            yield

    def expect(self, sequences: Any, places: Any) -> None:
        """Before a forward: which tokens decide, as indices of its (G, T, D) outputs."""
        self._sequences, self._places = sequences, places
        self._kept.clear()

    def take(self, like_RD: torch.Tensor) -> torch.Tensor:
        """(L, R, D) of the forward just done; (0, R, D) like `like_RD` when no layer is read.

        Raises ModelError when a hook was not called.
        """
        missing = set(self._layers) - set(self._kept)
        if missing:
            raise ModelError(
                expected=f"the hook of block {min(missing)} to be called once a forward",
                got="no call",
                hint="a compiled or replaced forward goes past hooks; load the model plainly",
            )
        if not self._layers:
            return like_RD.new_empty((0, *like_RD.shape))
        return torch.stack([self._kept[layer] for layer in self._layers])

    def _keep(self, layer: int, hidden_GTD: torch.Tensor) -> None:
        self._kept[layer] = hidden_GTD[self._sequences, self._places]
