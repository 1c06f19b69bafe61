"""Keys and values of rows that are being decoded, and of rows that come and go meanwhile.

All rows end at the same slot, so a decoding step writes one slot for all of them; a row's
own tokens start at `starts_R[r]`, and what lies before is padding that its mask hides.
Buffers are allocated with room ahead, so a step copies nothing.

It knows nothing of tokens or models, only which slots hold image tokens. Names: R rows,
S slots, H heads, E head width, P image tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from transformers.cache_utils import Cache

ROOM = 64
"""Slots allocated ahead of need."""


class RowCache(Cache):
    """Right-aligned keys and values of R rows over all layers, written in place.

    To transformers it is a cache of full-attention layers without a maximum length.
    """

    def __init__(
        self,
        pairs: list[tuple[torch.Tensor, torch.Tensor]],
        length: int,
        starts_R: torch.Tensor,
        images_RP: torch.Tensor,
    ):
        super().__init__(layers=[])
        self.pairs = pairs
        """Keys and values of each layer, (R, H, S + room, E)."""
        self.length = length
        """Slots in use, the same in every row and layer."""
        self.starts_R = starts_R
        self.images_RP = images_RP
        """Each row's image tokens, counted from the row's own start; -1 beyond them."""
        self._padded = int(starts_R.max()) > 0

    # -- what transformers asks of a cache ------------------------------------------------
    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        keys, values = self.pairs[layer_idx]
        end = self.length + key_states.shape[2]
        keys[:, :, self.length : end] = key_states
        values[:, :, self.length : end] = value_states
        if layer_idx == len(self.pairs) - 1:
            self.length = end
        return keys[:, :, :end], values[:, :, :end]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.length

    def get_query_offset(self, layer_idx: int = 0) -> int:
        return self.length

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        return self.length + query_length, 0

    # -- rows -----------------------------------------------------------------------------
    def visible(self, length: int) -> torch.Tensor | None:
        """Which of the first `length` slots each row sees (R, 1, 1, S); None when all see all."""
        if not self._padded:
            return None
        slots = torch.arange(length, device=self.starts_R.device)
        return (slots >= self.starts_R[:, None])[:, None, None]

    @classmethod
    def from_packed(
        cls,
        packed: Cache,
        group_R: Sequence[int],
        path_R: Sequence[np.ndarray],
        images_R: Sequence[Sequence[int]],
    ) -> RowCache:
        """Take each row's own tokens out of packed sequences (see `prefix.Packed`).

        `images_R`: each row's image tokens, as indices into the row.
        """
        longest = max(len(path) for path in path_R)
        slots_RS = np.zeros((len(path_R), longest), dtype=np.int64)
        for r, path in enumerate(path_R):
            slots_RS[r, longest - len(path) :] = path
        found = [(layer.keys, layer.values) for layer in packed.layers]  # type: ignore[union-attr]
        device = found[0][0].device  # type: ignore[union-attr]
        group, slots = torch.tensor(list(group_R), device=device)[:, None], torch.from_numpy(slots_RS)
        slots = slots.to(device)

        def gathered(tensor_GHTE: Any) -> torch.Tensor:
            return _aligned(tensor_GHTE.transpose(1, 2)[group, slots].transpose(1, 2), longest)

        pairs = [(gathered(keys), gathered(values)) for keys, values in found]
        starts = torch.tensor([longest - len(path) for path in path_R], device=device)
        images_RP = pad_sequence([torch.tensor(i, dtype=torch.long) for i in images_R], True, -1.0)
        return cls(pairs, longest, starts, images_RP.to(device))

    def kept(self, rows: torch.Tensor) -> RowCache:
        """Only these rows, without the slots that are padding for all of them."""
        starts = self.starts_R[rows]
        trim = int(starts.min())
        length = self.length - trim
        pairs = [
            (
                _aligned(k[rows, :, trim : self.length], length),
                _aligned(v[rows, :, trim : self.length], length),
            )
            for k, v in self.pairs
        ]
        return RowCache(pairs, length, starts - trim, self.images_RP[rows])

    def joined(self, other: RowCache) -> RowCache:
        """The rows of both, aligned at their ends."""
        length = max(self.length, other.length)

        def both(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            parts = (a[:, :, : self.length], b[:, :, : other.length])
            return torch.cat([_aligned(part, length) for part in parts])

        pairs = [
            (both(k, other_k), both(v, other_v))
            for (k, v), (other_k, other_v) in zip(self.pairs, other.pairs, strict=True)
        ]
        starts = [c.starts_R + (length - c.length) for c in (self, other)]
        images = pad_sequence([*self.images_RP, *other.images_RP], True, -1.0)
        return RowCache(pairs, length, torch.cat(starts), images)

    def reserve(self, slots: int = 1) -> None:
        """Make sure that this many more slots can be written."""
        if self.length + slots > self.pairs[0][0].shape[2]:
            end, room = self.length, max(ROOM, slots)
            self.pairs = [
                (_aligned(k[:, :, :end], end, room), _aligned(v[:, :, :end], end, room))
                for k, v in self.pairs
            ]

    def rewind(self, slots: int) -> None:
        """Forget the last slots of every row."""
        self.length -= slots

    def branched(self, parents_R: torch.Tensor, picks_R: torch.Tensor, branches: int, since: int) -> None:
        """Go on with one of the `branches` last slots of one row each, as the rows' last slot.

        Row r becomes row `parents_R[r]` from slot `since` on, followed by its slot number
        `picks_R[r]` of the branches. Before `since` parent and row must be equal already.
        """
        self.length -= branches
        for tensors in self.pairs:
            for tensor_RHSE in tensors:
                picked_RHE = tensor_RHSE[parents_R, :, self.length + picks_R]
                tensor_RHSE[:, :, since : self.length] = tensor_RHSE[parents_R, :, since : self.length]
                tensor_RHSE[:, :, self.length] = picked_RHE
        self.length += 1


def _aligned(tensor_RHSE: torch.Tensor, length: int, room: int = ROOM) -> torch.Tensor:
    """A buffer with room ahead whose first `length` slots end with the tensor's.

    Zeroed, not empty: a hidden slot has weight 0, and 0 times a stray NaN would be NaN.
    """
    rows, heads, slots, width = tensor_RHSE.shape
    buffer = tensor_RHSE.new_zeros((rows, heads, length + room, width))
    buffer[:, :, length - slots : length] = tensor_RHSE
    return buffer
