"""The matrix products of S heads: one after another on a CPU, batched (`bmm`) elsewhere.

On a CPU a batched product has nothing to gain (a 32 x 2048 by 2048 x 512 product fills
a core) and much to lose: PyTorch sends it to MKL, which on processors that are not
Intel's stays below AVX-512. The same product through oneDNN, which PyTorch carries too,
takes half the time there and no more elsewhere. On a GPU one `bmm` a width takes the
place of one small kernel a head.

Legend: S heads, B batch, K inputs, H outputs; inputs[s] is (B, K_s), a matrix (H, K_s).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch


@dataclass(frozen=True, slots=True)
class Matrices:
    """One weight matrix a head; `each[s]` is a view of its width group's stacked storage."""

    each: list[torch.Tensor]
    groups: list[tuple[list[int], torch.Tensor]]

    @classmethod
    def of(cls, starts: Sequence[torch.Tensor], device: torch.device) -> Matrices:
        """Copies of `starts`, stacked by shape."""
        by_shape: dict[torch.Size, list[int]] = {}
        for s, start in enumerate(starts):
            by_shape.setdefault(start.shape, []).append(s)
        groups = [(heads, torch.stack([starts[s] for s in heads]).to(device)) for heads in by_shape.values()]
        each = {s: view for heads, stacked in groups for s, view in zip(heads, stacked, strict=True)}
        return cls([each[s] for s in range(len(starts))], groups)


class Products(Protocol):
    """Three products of a layer: forward, and backward into weights and into inputs."""

    device: torch.device
    dtype: torch.dtype

    def forward(
        self, inputs: Sequence[torch.Tensor], weights: Matrices, heads: Sequence[int]
    ) -> torch.Tensor:
        """`inputs[s] @ weights[s].T` for the named heads, (B, S, H) in float32; zero for the others."""

    def into_weights(
        self, outer_BSH: torch.Tensor, inputs: Sequence[torch.Tensor], weights: Matrices, heads: Sequence[int]
    ) -> None:
        """Set `weights.each[s].grad` to `outer[:, s].T @ inputs[s]`; to None for the other heads."""

    def into_inputs(self, outer_BSH: torch.Tensor, weights: Matrices, heads: Sequence[int]) -> torch.Tensor:
        """`outer[:, s] @ weights[s]`, (B, S, K) in float32."""


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
        rows, outputs = inputs[heads[0]].shape[0], weights.each[0].shape[0]
        out_BSH = torch.zeros(rows, len(weights.each), outputs)
        for s in heads:
            out_BSH[:, s] = _times_transposed(inputs[s], weights.each[s].to(self.dtype))
        return out_BSH

    def into_weights(
        self, outer_BSH: torch.Tensor, inputs: Sequence[torch.Tensor], weights: Matrices, heads: Sequence[int]
    ) -> None:
        outer = outer_BSH.to(self.dtype).unbind(1)
        for weight in weights.each:
            weight.grad = None
        for s in heads:
            weights.each[s].grad = _times_transposed(outer[s].T, inputs[s].T).float()

    def into_inputs(self, outer_BSH: torch.Tensor, weights: Matrices, heads: Sequence[int]) -> torch.Tensor:
        outer = outer_BSH.to(self.dtype).unbind(1)
        out_BSK = torch.zeros(len(outer_BSH), len(weights.each), weights.each[0].shape[1])
        for s in heads:
            out_BSK[:, s] = _times_transposed(outer[s], weights.each[s].to(self.dtype).T)
        return out_BSK


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
            product_GBH = torch.bmm(inputs_GBK, stacked_GHK.to(self.dtype).transpose(1, 2)).float()
            out |= zip(members, product_GBH, strict=True)
        return torch.stack([out[s] for s in range(len(out))], dim=1)

    def into_weights(
        self, outer_BSH: torch.Tensor, inputs: Sequence[torch.Tensor], weights: Matrices, heads: Sequence[int]
    ) -> None:
        outer_SHB = outer_BSH.to(self.dtype).permute(1, 2, 0)
        for members, _ in weights.groups:
            inputs_GBK = torch.stack([inputs[s] for s in members])
            for s, grad in zip(members, torch.bmm(outer_SHB[members], inputs_GBK).float(), strict=True):
                weights.each[s].grad = grad if s in heads else None

    def into_inputs(self, outer_BSH: torch.Tensor, weights: Matrices, heads: Sequence[int]) -> torch.Tensor:
        ((_, stacked_SHK),) = weights.groups  # below the first layer all heads have one width
        outer_SBH = outer_BSH.to(self.dtype).transpose(0, 1)
        return torch.bmm(outer_SBH, stacked_SHK.to(self.dtype)).float().transpose(0, 1)


def _times_transposed(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """`left @ right.T` of two matrices on the CPU."""
    if _ONEDNN:
        return torch.ops.mkldnn._linear_pointwise(left, right, None, "none", [], "")
    return left @ right.T


def has_onednn() -> bool:
    """Whether products on this CPU go through oneDNN."""
    return _ONEDNN


_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
