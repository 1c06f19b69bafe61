"""One prefix, several continuations, one forward pass.

An image with its prompt is computed once, and every answer (or every question with its
answer) hangs off it as a *branch*: the branches stand one after the other in a single
sequence, a block mask keeps them from seeing each other, and the position ids of every
branch restart where the prefix ends. A decoder that takes positions from `position_ids` and
visibility from a 4-D mask (transformers' Llama-like decoders, sdpa and eager attention) then
gives every branch exactly the hidden states of a plain, separate forward.

The token *after* position i is predicted from the hidden state at i. For the first token of
a branch that is the last prefix position, wherever the branch stands; so every scored token
carries the index of its `source` position, and the language-model head needs to look at those
positions only.

This file knows index arithmetic. It knows nothing about models, images or losses.

Names: T tokens, B sequences of a batch, S branches of a batch, A scored tokens of a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

PREFIX = 0
"""Branch number of the tokens that every branch sees."""
PADDING = -1
"""Branch number of padding."""


@dataclass(frozen=True, slots=True)
class Packed:
    """One prefix and its branches as one sequence. Branches are numbered from 1."""

    ids_T: np.ndarray
    position_T: np.ndarray
    branch_T: np.ndarray
    source_A: np.ndarray
    """Position whose hidden state predicts each scored token."""
    target_A: np.ndarray
    """The scored tokens."""
    branch_A: np.ndarray
    """Branch number of each scored token, from 1."""
    num_branches: int

    def __len__(self) -> int:
        return len(self.ids_T)


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """Right-padded sequences of a batch, and where its scored tokens are."""

    ids_BT: torch.Tensor
    position_BT: torch.Tensor
    branch_BT: torch.Tensor
    source_A: torch.Tensor
    """Index into the flattened (B * T) positions."""
    target_A: torch.Tensor
    segment_A: torch.Tensor
    """Which of the S branches each scored token belongs to."""
    row_S: torch.Tensor
    """Which of the B sequences each branch belongs to."""

    @property
    def num_segments(self) -> int:
        return len(self.row_S)

    def mask(self, dtype: torch.dtype) -> torch.Tensor:
        """The additive attention mask (B, 1, T, T) in `dtype`, which must be the model's."""
        return additive(visible(self.branch_BT), dtype)

    def to(self, device: torch.device | str) -> PackedBatch:
        return PackedBatch(*(getattr(self, name).to(device) for name in self.__slots__))


def pack(
    prefix: Sequence[int], branches: Sequence[Sequence[int]], scored_from: Sequence[int] | None = None
) -> Packed:
    """Put a prefix and its branches into one sequence.

    `scored_from[k]` is the first token of branch k that is scored (default 0: all are, as for
    answers to the prompt in the prefix). A branch that holds a question and its answer is
    scored from the answer's first token on. `pack([1, 2, 3], [[7, 8], [9]])` gives the
    positions [0, 1, 2, 3, 4, 3] and the sources [2, 3, 2].
    """
    if not len(prefix):
        raise ValueError("the prefix needs at least one token: the first scored token is predicted from it")
    lengths_S = np.array([len(branch) for branch in branches], dtype=np.int64)
    first_S = np.zeros(len(branches), dtype=np.int64) if scored_from is None else np.asarray(scored_from)
    branch_tokens = np.repeat(np.arange(1, len(branches) + 1), lengths_S)
    starts_S = np.cumsum(lengths_S) - lengths_S  # of each branch, counted from the end of the prefix
    offset = np.arange(lengths_S.sum()) - np.repeat(starts_S, lengths_S)  # of each token in its branch
    scored = offset >= np.repeat(first_S, lengths_S)
    size = len(prefix)
    index = size + np.arange(len(offset))
    source = np.where(offset == 0, size - 1, index - 1)
    ids = np.concatenate([np.asarray(part, dtype=np.int64) for part in (prefix, *branches)])
    return Packed(
        ids_T=ids,
        position_T=np.concatenate([np.arange(size), size + offset]),
        branch_T=np.concatenate([np.full(size, PREFIX), branch_tokens]),
        source_A=source[scored],
        target_A=ids[size:][scored],
        branch_A=branch_tokens[scored],
        num_branches=len(branches),
    )


def collate(rows: Sequence[Packed], *, pad_id: int) -> PackedBatch:
    """Pad to the right and stack; the branches of all rows are numbered through, from 0."""
    width = max(len(row) for row in rows)
    ids = np.full((len(rows), width), pad_id, dtype=np.int64)
    position = np.zeros((len(rows), width), dtype=np.int64)
    branch = np.full((len(rows), width), PADDING, dtype=np.int64)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = row.ids_T
        position[i, : len(row)] = row.position_T
        branch[i, : len(row)] = row.branch_T
    counts = np.array([row.num_branches for row in rows])
    before = np.cumsum(counts) - counts
    return PackedBatch(
        ids_BT=torch.from_numpy(ids),
        position_BT=torch.from_numpy(position),
        branch_BT=torch.from_numpy(branch),
        source_A=torch.from_numpy(np.concatenate([i * width + row.source_A for i, row in enumerate(rows)])),
        target_A=torch.from_numpy(np.concatenate([row.target_A for row in rows])),
        segment_A=torch.from_numpy(
            np.concatenate([before[i] + row.branch_A - 1 for i, row in enumerate(rows)])
        ),
        row_S=torch.from_numpy(np.repeat(np.arange(len(rows)), counts)),
    )


def visible(branch_BT: torch.Tensor) -> torch.Tensor:
    """Which position (query, third axis) sees which (key, last axis): bool (B, 1, T, T).

    Causal; a branch sees the prefix and itself. Padding sees only itself, because a row
    without any visible key would turn into NaN.
    """
    size = branch_BT.shape[1]
    query_BT1, key_B1T = branch_BT[:, :, None], branch_BT[:, None, :]
    causal_TT = torch.ones(size, size, dtype=torch.bool, device=branch_BT.device).tril()
    same_BTT = (query_BT1 == key_B1T) & (key_B1T != PADDING)
    seen_BTT = causal_TT & (same_BTT | ((key_B1T == PREFIX) & (query_BT1 != PADDING)))
    diagonal_TT = torch.eye(size, dtype=torch.bool, device=branch_BT.device)
    return (seen_BTT | diagonal_TT)[:, None]


def additive(visible_B1TT: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """0 where visible, the most negative finite number elsewhere.

    transformers hands a 4-D mask to the attention function as it is: sdpa would take a boolean
    one, but eager attention *adds* it, so only the additive form is right for both.
    """
    mask = torch.zeros(visible_B1TT.shape, dtype=dtype, device=visible_B1TT.device)
    return mask.masked_fill_(~visible_B1TT, torch.finfo(dtype).min)


def token_logprobs(
    hidden_BTD: torch.Tensor,
    head: Callable[[torch.Tensor], torch.Tensor],
    batch: PackedBatch,
) -> torch.Tensor:
    """Natural log-probability of every scored token (A,), in fp32.

    `head` (the language-model head: (A, D) -> (A, V)) sees the source positions only.
    """
    source_AD = hidden_BTD.flatten(0, 1).index_select(0, batch.source_A)
    return -F.cross_entropy(head(source_AD).float(), batch.target_A, reduction="none")


def sum_by_branch(values_A: torch.Tensor, batch: PackedBatch) -> torch.Tensor:
    """Sum over the scored tokens of each branch: (A,) -> (S,)."""
    return values_A.new_zeros(batch.num_segments).index_add(0, batch.segment_A, values_A)


def count_by_branch(batch: PackedBatch) -> torch.Tensor:
    """Number of scored tokens of each branch (S,)."""
    return torch.bincount(batch.segment_A, minlength=batch.num_segments)
