"""The hidden states of every vision block at every token of a picture.

A *picture* is what the tower sees at once: one image, or one tile of it (LLaVA-NeXT, SmolVLM).
Tokens are the tower's own, in its own order: CLIP's and BLIP's class token comes first, and
Qwen2.5's patches stand in the order of its windows. What steers the blocks meets the same order.

Names: I images, P tokens of one picture, L vision blocks, W width of the tower.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any

import torch

from sightline.errors import ModelError
from sightline.models.encoding import EncodedRow, ImageInputs
from sightline.models.spans import Spans

if TYPE_CHECKING:
    from sightline.models.vlm import Vlm


class _AllRead(Exception):  # noqa: N818  (it is no error: it ends a forward early)
    """Raised behind the last block: connector and language model are not needed."""


def vision_states(vlm: Vlm, images: Sequence[ImageInputs], *, embeddings: bool = False) -> list[torch.Tensor]:
    """For each image (pictures, L, P, W) in float32: the output of each vision block.

    With `embeddings`, what enters block 0 stands in front (L + 1 layers). All images go through
    the tower together. Raises ModelError where a block was not called exactly once.
    """
    blocks = vlm.adapter.vision_blocks(vlm.model)
    taps = _Taps(len(blocks))
    nothing = slice(0, 0)
    rows = [EncodedRow([], Spans((), nothing, nothing, nothing), image) for image in images]
    with vlm.inference(), taps.attached(blocks), suppress(_AllRead):
        vlm.adapter.see_images(vlm.model, rows)
    layers = range(-1 if embeddings else 0, len(blocks))
    states = torch.stack([taps.take(layer).float() for layer in layers])
    return [_of_one(part) for part in states.split([_pictures(image) for image in images], dim=1)]


def picture_size(image: ImageInputs) -> int:
    """Pictures of one image."""
    return 1 if image.tensors["pixel_values"].ndim != 4 else len(image.tensors["pixel_values"])


def _pictures(image: ImageInputs) -> int:
    """How much of the block's first axis is this image's: pictures, or, with Qwen, patches."""
    pixels = image.tensors["pixel_values"]
    return len(pixels) if pixels.ndim == 2 else picture_size(image)


def _of_one(states: torch.Tensor) -> torch.Tensor:
    """(L, pictures, P, W), or Qwen's (L, P, W), as (pictures, L, P, W)."""
    return states[None] if states.ndim == 3 else states.transpose(0, 1)


class _Taps:
    """Hooks on the vision blocks for the length of one forward."""

    def __init__(self, count: int):
        self._count = count
        self._kept: dict[int, torch.Tensor] = {}

    def attached(self, blocks: Any) -> ExitStack:
        """Hooks that are gone when the `with` ends."""
        stack = ExitStack()
        enter = blocks[0].register_forward_pre_hook(
            lambda module, args, kwargs: self._keep(-1, args[0] if args else kwargs["hidden_states"]),
            with_kwargs=True,
        )
        stack.callback(enter.remove)
        for layer, block in enumerate(blocks):
            handle = block.register_forward_hook(
                lambda module, args, output, layer=layer: self._keep(layer, output)
            )
            stack.callback(handle.remove)
        return stack

    def take(self, layer: int) -> torch.Tensor:
        if layer not in self._kept:
            raise ModelError(
                expected=f"vision block {layer} to be called once",
                got="no call",
                hint="a compiled or replaced forward goes past hooks; load the model plainly",
            )
        return self._kept[layer]

    def _keep(self, layer: int, hidden: torch.Tensor) -> None:
        if layer in self._kept:
            raise ModelError(expected=f"one call of vision block {layer}", got="a second one")
        self._kept[layer] = hidden
        if layer == self._count - 1:
            raise _AllRead
