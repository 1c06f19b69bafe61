"""S heads of one shape side by side: forward, backward and step, written out and stacked.

What costs time in training small MLPs at batch 32 is less the arithmetic than what is
around it: hundreds of small kernels a head and step, and an optimiser that walks over
its weights seven times. Here the elementwise work of all heads is one kernel a layer
(activations are (B, S, H), so BatchNorm sees S*H channels), Adam is fused and
follows each gradient at once (`adam`), and the products go through `products`. The
gradient is written out, because autograd would undo most of this; a test holds it to
autograd's and `torch.optim.Adam`'s.

Legend: S heads (sites x seeds), B batch, D a site's width, H a hidden width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from sightline.config.probing import ProbeSettings
from sightline.probes.adam import Adam
from sightline.probes.heads import NORM_EPS, NORM_MOMENTUM, hidden_widths
from sightline.probes.products import Matrices, Products, by_head

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True, slots=True)
class _Layer:
    """What the backward pass needs of a hidden layer's forward."""

    inputs: Sequence[torch.Tensor]
    rectified_BSH: torch.Tensor
    mean_C: torch.Tensor
    inverse_deviation_C: torch.Tensor
    mask_BSH: torch.Tensor


class Stack:
    """Weights, optimiser and training step of S heads; head s reads `inputs[s]` of every batch."""

    def __init__(
        self, starts: Sequence[Mapping[str, torch.Tensor]], settings: ProbeSettings, products: Products
    ):
        hidden = hidden_widths(settings)
        self._layers = [f"hidden.{i}" for i in range(len(hidden))]
        self._products = products
        self.active = list(range(len(starts)))
        """Heads that still learn; take one out and its weights stay."""
        self._matrices = {
            name: Matrices.of([start[f"{name}.weight"] for start in starts], products.device, products.dtype)
            for name in (*self._layers, "out")
        }
        own = {f"{name}.weight" for name in self._matrices}
        self._vectors = {
            name: torch.stack([start[name] for start in starts]).to(products.device)
            for name in starts[0]
            if name not in own
        }
        self._adam = Adam(settings.lr, settings.weight_decay)

    def step(
        self,
        inputs: Sequence[torch.Tensor],
        targets_BS: torch.Tensor,
        row_weights_BS: torch.Tensor,
        masks: Sequence[torch.Tensor],
    ) -> torch.Tensor:
        """One optimiser step on one batch; each head's mean loss before it, (S,).

        `masks[i]` is dropout's, (B, S, H_i) or expanded to it, already divided by the share kept.
        """
        trail: list[_Layer] = []
        x = inputs
        for name, mask_BSH in zip(self._layers, masks, strict=True):
            layer, dropped_BSH = self._hidden(name, x, mask_BSH)
            trail.append(layer)
            x = by_head(dropped_BSH, self._products.dtype)
        logits_BS = self._logit(x)
        losses_BS = row_weights_BS * F.binary_cross_entropy_with_logits(
            logits_BS, targets_BS, reduction="none"
        )
        outer_BS1 = (row_weights_BS * (torch.sigmoid(logits_BS) - targets_BS) / len(targets_BS))[..., None]
        self._learn(outer_BS1, x, trail)
        return losses_BS.mean(dim=0)

    def logits(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        """Logits (B, S) with dropout off and the running statistics; 0 for heads that stopped."""
        x = inputs
        for name in self._layers:
            rectified_BSH = self._rectified(name, x)
            v = {key: self._vectors[f"{name}.norm.{key}"] for key in ("weight", "bias", "mean", "var")}
            scale_SH = v["weight"] * torch.rsqrt(v["var"] + NORM_EPS)
            normal_BSH = torch.addcmul(v["bias"] - v["mean"] * scale_SH, rectified_BSH, scale_SH)
            x = by_head(normal_BSH, self._products.dtype)
        return self._logit(x)

    def state(self, head: int) -> Tensors:
        """A copy of one head's weights, by the names of `heads`."""
        matrices = {f"{name}.weight": m.masters[head].clone() for name, m in self._matrices.items()}
        return matrices | {name: stacked[head].clone() for name, stacked in self._vectors.items()}

    def _rectified(self, name: str, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        linear_BSH = self._products.forward(inputs, self._matrices[name], self.active)
        return linear_BSH.add_(self._vectors[f"{name}.bias"]).relu_()

    def _logit(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        linear_BS1 = self._products.forward(inputs, self._matrices["out"], self.active)
        return linear_BS1.add_(self._vectors["out.bias"])[..., 0]

    def _hidden(
        self, name: str, inputs: Sequence[torch.Tensor], mask_BSH: torch.Tensor
    ) -> tuple[_Layer, torch.Tensor]:
        """[Linear, ReLU, BatchNorm, Dropout] in training; the running statistics move along."""
        rectified_BSH = self._rectified(name, inputs)
        v = {key: self._vectors[f"{name}.norm.{key}"].view(-1) for key in ("weight", "bias", "mean", "var")}
        normal_BC, mean_C, inverse_C = torch.native_batch_norm(
            rectified_BSH.flatten(1),
            v["weight"],
            v["bias"],
            v["mean"],
            v["var"],
            True,
            NORM_MOMENTUM,
            NORM_EPS,
        )
        dropped_BSH = normal_BC.view_as(rectified_BSH) * mask_BSH
        return _Layer(inputs, rectified_BSH, mean_C, inverse_C, mask_BSH), dropped_BSH

    def _learn(self, outer_BSH: torch.Tensor, x: Sequence[torch.Tensor], trail: list[_Layer]) -> None:
        """Backward from the logit; each weight is updated when nothing below needs it any more."""
        for name in ("out", *reversed(self._layers)):
            if name != "out":
                layer = trail.pop()
                outer_BSH, x = self._through_hidden(name, outer_BSH, layer), layer.inputs
            matrices = self._matrices[name]
            below_BSK = self._products.into_inputs(outer_BSH, matrices, self.active) if trail else outer_BSH
            for s, gradient in self._products.into_weights(outer_BSH, x, matrices, self.active):
                self._adam.update(matrices.masters[s], gradient)
                matrices.refresh(s)
            self._adam.update(self._vectors[f"{name}.bias"], outer_BSH.sum(dim=0))
            outer_BSH = below_BSK

    def _through_hidden(self, name: str, outer_BSH: torch.Tensor, layer: _Layer) -> torch.Tensor:
        """The gradient from a layer's dropped output back to its linear one; its BatchNorm learns."""
        weight_SH, bias_SH = self._vectors[f"{name}.norm.weight"], self._vectors[f"{name}.norm.bias"]
        rectified_BSH = layer.rectified_BSH
        inner_BC, weight_gradient_C, bias_gradient_C = torch.ops.aten.native_batch_norm_backward(
            (outer_BSH * layer.mask_BSH).flatten(1),
            rectified_BSH.flatten(1),
            weight_SH.view(-1),
            None,
            None,
            layer.mean_C,
            layer.inverse_deviation_C,
            True,
            NORM_EPS,
            [True, True, True],
        )
        self._adam.update(weight_SH, weight_gradient_C.view_as(weight_SH))
        self._adam.update(bias_SH, bias_gradient_C.view_as(bias_SH))
        rectifying: torch.Tensor = torch.ops.aten.threshold_backward(
            inner_BC.view_as(rectified_BSH), rectified_BSH, 0.0
        )
        return rectifying
