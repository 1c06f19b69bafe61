"""Rows of different lengths -> one padded batch, as the model's own forward takes it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch

from sightline.errors import ModelError
from sightline.models.encoding import EncodedRow

if TYPE_CHECKING:
    from sightline.models.adapters.base import Adapter

PaddingSide = Literal["left", "right"]


def collate(
    adapter: Adapter, processor: Any, rows: Sequence[EncodedRow], padding_side: PaddingSide
) -> dict[str, torch.Tensor]:
    """`input_ids`, `attention_mask`, the family's image tensors, and `position_ids` if needed.

    Position ids are given with left padding (a forward would count the padding); families
    with positions of their own (`position_axes` > 1) derive them from the mask.
    """
    if not rows:
        raise ModelError("cannot collate an empty list of rows.")
    if len({row.image is None for row in rows}) > 1:
        raise ModelError(
            expected="rows that all have an image, or none",
            got="a mixture",
            hint="collate them in two batches",
        )
    ids_BT = pad([row.ids for row in rows], processor.tokenizer.pad_token_id, padding_side)
    mask_BT = pad([[1] * len(row) for row in rows], 0, padding_side)
    batch = {"input_ids": ids_BT, "attention_mask": mask_BT}
    if padding_side == "left" and adapter.position_axes == 1 and adapter.takes_position_ids:
        batch["position_ids"] = (mask_BT.cumsum(-1) - 1).clamp(min=0)
    images = [row.image for row in rows if row.image is not None]
    if images:
        batch |= adapter.collate_images(images)
        batch |= adapter.sequence_inputs(rows, ids_BT)
    return batch


def pad(sequences: Sequence[Sequence[int]], value: int, side: PaddingSide) -> torch.Tensor:
    """Sequences of token ids as one (B, T) tensor."""
    longest = max(len(sequence) for sequence in sequences)
    batch = torch.full((len(sequences), longest), value, dtype=torch.long)
    for i, sequence in enumerate(sequences):
        start = longest - len(sequence) if side == "left" else 0
        batch[i, start : start + len(sequence)] = torch.tensor(sequence, dtype=torch.long)
    return batch
