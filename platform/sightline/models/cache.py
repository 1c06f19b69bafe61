"""Keys and values of rows that are being decoded, and of rows that come and go meanwhile.

All rows end at the same slot, so a decoding step writes one slot for all of them; a row's
own tokens start at `starts_R[r]`, and what lies before is padding that its mask hides.
Buffers are allocated with room ahead, so a step copies nothing.

It knows nothing of tokens or models. Names: R rows, S slots, H heads, E head width.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from transformers.cache_utils import Cache, CacheLayerMixin

ROOM = 64
"""Slots allocated ahead of need."""


class _RowLayer(CacheLayerMixin):
    """One layer's buffers (R, H, S + room, E), written in place."""

    is_sliding = False

    def __init__(self, keys: torch.Tensor, values: torch.Tensor, length: int):
        super().__init__()
        self.keys, self.values, self.length = keys, values, length
        self.is_initialized = True

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Nothing to do: the buffers exist from the start."""

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        start, self.length = self.length, self.length + key_states.shape[2]
        self.keys[:, :, start : self.length] = key_states
        self.values[:, :, start : self.length] = value_states
        return self.keys[:, :, : self.length], self.values[:, :, : self.length]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.length + query_length, 0

    def get_seq_length(self) -> int:
        return self.length

    def get_max_length(self) -> int:
        return -1


class RowCache(Cache):
    """Right-aligned keys and values of R rows over all layers."""

    def __init__(self, layers: list[_RowLayer], starts_R: torch.Tensor):
        super().__init__(layers=layers)
        self.starts_R = starts_R
        self._unpadded: bool | None = None

    @property
    def length(self) -> int:
        """Slots in use."""
        return self.layers[0].get_seq_length()

    @property
    def capacity(self) -> int:
        """Slots allocated."""
        return self.layers[0].keys.shape[2]  # type: ignore[union-attr]

    def visible(self, length: int) -> torch.Tensor | None:
        """Which of the first `length` slots each row sees (R, 1, 1, S); None when all see all."""
        if self._unpadded is None:
            self._unpadded = int(self.starts_R.max()) == 0
        if self._unpadded:
            return None
        slots = torch.arange(length, device=self.starts_R.device)
        return (slots >= self.starts_R[:, None])[:, None, None]

    @classmethod
    def from_packed(cls, packed: Cache, group_R: Sequence[int], path_R: Sequence[np.ndarray]) -> RowCache:
        """Take each row's own tokens out of packed sequences (see `prefix.Packed`)."""
        longest = max(len(path) for path in path_R)
        slots_RS = np.zeros((len(path_R), longest), dtype=np.int64)
        for r, path in enumerate(path_R):
            slots_RS[r, longest - len(path) :] = path
        device = packed.layers[0].keys.device  # type: ignore[union-attr]
        group = torch.tensor(list(group_R), device=device)[:, None]
        slots = torch.from_numpy(slots_RS).to(device)
        layers = []
        for layer in packed.layers:
            pair = [
                _allocate(t.transpose(1, 2)[group, slots].transpose(1, 2), longest + ROOM, longest)
                for t in (layer.keys, layer.values)
            ]
            layers.append(_RowLayer(pair[0], pair[1], longest))
        starts = torch.tensor([longest - len(path) for path in path_R], device=device)
        return cls(layers, starts)

    def kept(self, rows: torch.Tensor) -> RowCache:
        """Only these rows, without the slots that are padding for all of them."""
        starts = self.starts_R[rows]
        trim = int(starts.min()) if len(rows) else 0
        length = self.length - trim
        layers = []
        for layer in self.layers:
            pair = [
                _allocate(t[rows, :, trim : self.length], length + ROOM, length)
                for t in (layer.keys, layer.values)
            ]
            layers.append(_RowLayer(pair[0], pair[1], length))
        return RowCache(layers, starts - trim)

    def joined(self, other: RowCache) -> RowCache:
        """The rows of both, aligned at their ends."""
        length = max(self.length, other.length)
        layers = []
        for mine, theirs in zip(self.layers, other.layers, strict=True):
            pair = []
            for a, b in ((mine.keys, theirs.keys), (mine.values, theirs.values)):
                parts = [a[:, :, : self.length], b[:, :, : other.length]]
                padded = [_allocate(part, length + ROOM, length) for part in parts]
                pair.append(torch.cat(padded))
            layers.append(_RowLayer(pair[0], pair[1], length))
        starts = [c.starts_R + (length - c.length) for c in (self, other)]
        return RowCache(layers, torch.cat(starts))

    def reserve(self) -> None:
        """Make sure that one more slot can be written."""
        if self.length < self.capacity:
            return
        for layer in self.layers:
            layer.keys = _allocate(layer.keys, self.capacity + ROOM, layer.length)
            layer.values = _allocate(layer.values, layer.keys.shape[2], layer.length)


def _allocate(tensor_RHSE: torch.Tensor, capacity: int, length: int) -> torch.Tensor:
    """A zeroed buffer of `capacity` slots whose first `length` end with the tensor's slots.

    Zeroed, not empty: a hidden slot has weight 0, and 0 times a stray NaN would be NaN.
    """
    rows, heads, slots, width = tensor_RHSE.shape
    buffer = tensor_RHSE.new_zeros((rows, heads, capacity, width))
    buffer[:, :, length - slots : length] = tensor_RHSE
    return buffer
