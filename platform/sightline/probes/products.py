"""The matrix products of S heads: one after another on a CPU, batched (`bmm`) elsewhere.

On a CPU a batched product has nothing to gain (a 32 x 2048 by 2048 x 512 product fills
a core) and much to lose: PyTorch sends it to MKL, which on processors that are not
Intel's stays below AVX-512. The same product through oneDNN, which PyTorch carries too,
takes half the time there. On a GPU one `bmm` a width takes the place of one small
kernel a head.

Legend: S heads, G heads of one width, B batch, K inputs, H outputs; inputs[s] is (B, K_s).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch


@dataclass(frozen=True, slots=True)
class Matrices:
    """One weight matrix (H, K_s) a head, in float32 and in the precision of the products."""

    masters: list[torch.Tensor]
    """What the optimiser changes."""
    used: list[torch.Tensor]
    """What is multiplied: the masters themselves, or copies of less precision."""
    groups: list[tuple[list[int], torch.Tensor]]
    """Heads of one width, and the storage (G, H, K) that `used` shows views of."""

    @classmethod
    def of(cls, starts: Sequence[torch.Tensor], device: torch.device, dtype: torch.dtype) -> Matrices:
        """Copies of `starts`, stacked by shape."""
        by_shape: dict[torch.Size, list[int]] = {}
        for s, start in enumerate(starts):
            by_shape.setdefault(start.shape, []).append(s)
        groups = [
            (heads, torch.stack([starts[s] for s in heads]).to(device, dtype)) for heads in by_shape.values()
        ]
        views = {s: view for heads, stacked in groups for s, view in zip(heads, stacked, strict=True)}
        used = [views[s] for s in range(len(starts))]
        same = dtype == torch.float32
        masters = used if same else [start.to(device, copy=True) for start in starts]
        return cls(masters, used, groups)

    def refresh(self, head: int) -> None:
        """After a head's master has changed."""
        if self.used[head] is not self.masters[head]:
            self.used[head].copy_(self.masters[head])


class Products(Protocol):
    """Three products of a layer: forward, and backward into inputs and into weights."""

    @property
    def device(self) -> torch.device: ...

    @property
    def dtype(self) -> torch.dtype: ...

    def forward(
        self, inputs: Sequence[torch.Tensor], weights: Matrices, heads: Sequence[int]
    ) -> torch.Tensor:
        """`inputs[s] @ weights[s].T` for the named heads, (B, S, H) in float32; zero for the others."""

    def into_inputs(self, outer_BSH: torch.Tensor, weights: Matrices, heads: Sequence[int]) -> torch.Tensor:
        """`outer[:, s] @ weights[s]` for the named heads, (B, S, K) in float32; zero for the others."""

    def into_weights(
        self, outer_BSH: torch.Tensor, inputs: Sequence[torch.Tensor], weights: Matrices, heads: Sequence[int]
    ) -> Iterator[tuple[int, torch.Tensor]]:
        """(s, `outer[:, s].T @ inputs[s]`) for each named head, in float32, as they come."""


def choose(device: torch.device, dtype: torch.dtype) -> Products:
    """The products that suit a device."""
    return OneByOne(device, dtype) if device.type == "cpu" else Batched(device, dtype)


@dataclass(frozen=True, slots=True)
class OneByOne:
    """For a CPU: a product a head, through oneDNN where PyTorch has it."""

    device: torch.device
    dtype: torch.dtype

    def forward(
        self, inputs: Sequence[torch.Tensor], weights: Matrices, heads: Sequence[int]
    ) -> torch.Tensor:
        out_BSH = torch.zeros(len(inputs[heads[0]]), len(weights.used), len(weights.used[0]))
        for s in heads:
            # Weights on the left: oneDNN repacks the right side, and the batch is the small one.
            out_BSH[:, s] = _times_transposed(weights.used[s], inputs[s]).T
        return out_BSH

    def into_inputs(self, outer_BSH: torch.Tensor, weights: Matrices, heads: Sequence[int]) -> torch.Tensor:
        outer = by_head(outer_BSH, self.dtype)
        out_BSK = torch.zeros(len(outer_BSH), len(weights.used), weights.used[0].shape[1])
        for s in heads:
            out_BSK[:, s] = _times_transposed(outer[s], weights.used[s].T)
        return out_BSK

    def into_weights(
        self, outer_BSH: torch.Tensor, inputs: Sequence[torch.Tensor], weights: Matrices, heads: Sequence[int]
    ) -> Iterator[tuple[int, torch.Tensor]]:
        outer = by_head(outer_BSH, self.dtype)
        for s in heads:
            yield s, _times_transposed(outer[s].T, inputs[s].T).float()


@dataclass(frozen=True, slots=True)
class Batched:
    """For a GPU: one `bmm` a width; heads that stopped are computed along and not used."""

    device: torch.device
    dtype: torch.dtype

    def forward(
        self, inputs: Sequence[torch.Tensor], weights: Matrices, heads: Sequence[int]
    ) -> torch.Tensor:
        out: dict[int, torch.Tensor] = {}
        for members, stacked_GHK in weights.groups:
            inputs_GBK = torch.stack([inputs[s] for s in members])
            product_GBH = torch.bmm(inputs_GBK, stacked_GHK.transpose(1, 2)).float()
            out |= zip(members, product_GBH, strict=True)
        return torch.stack([out[s] for s in range(len(out))], dim=1)

    def into_inputs(self, outer_BSH: torch.Tensor, weights: Matrices, heads: Sequence[int]) -> torch.Tensor:
        ((_, stacked_SHK),) = weights.groups  # above the first layer all heads have one width
        outer_SBH = outer_BSH.to(self.dtype).transpose(0, 1)
        return torch.bmm(outer_SBH, stacked_SHK).float().transpose(0, 1)

    def into_weights(
        self, outer_BSH: torch.Tensor, inputs: Sequence[torch.Tensor], weights: Matrices, heads: Sequence[int]
    ) -> Iterator[tuple[int, torch.Tensor]]:
        outer_SHB = outer_BSH.to(self.dtype).permute(1, 2, 0)
        for members, _ in weights.groups:
            inputs_GBK = torch.stack([inputs[s] for s in members])
            gradient_GHK = torch.bmm(outer_SHB[members], inputs_GBK).float()
            yield from ((s, each) for s, each in zip(members, gradient_GHK, strict=True) if s in heads)


def by_head(stacked_BSK: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    """Each head's (B, K) in memory of its own: oneDNN is a thousand times slower on strided views."""
    return stacked_BSK.to(dtype).transpose(0, 1).contiguous().unbind(0)


def _times_transposed(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """`left @ right.T` of two matrices on the CPU."""
    if _ONEDNN and len(left) * left.shape[1] * len(right) >= _WORTH_ONEDNN:
        product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(left, right, None, "none", [], "")
        return product
    return left @ right.T


def has_onednn() -> bool:
    """Whether products on this CPU go through oneDNN."""
    return _ONEDNN


_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
_WORTH_ONEDNN = 100_000
"""Multiplications below which setting oneDNN up costs more than it saves."""
