"""VTI's steering directions from differences of hidden states: principal components plus mean.

Source: Liu, Ye, Xing, Zou, "Reducing Hallucinations in Vision-Language Models via Latent Space
Steering" (ICLR 2025), and its code `shengliu66/VTI` (`vti_utils/utils.py`, `pca.py`). Pure tensors
in, pure tensors out; where the states come from is the affair of `models`.

text     delta = h(clean caption) - h(hallucinated caption) at the caption's last token. Added to a
         hidden state it leads from hallucinated to clean.
visual   delta = mean over trials of h(perturbed image) - h(image) at every patch token. Added to a
         hidden state it leads *towards* the average of the perturbed images: what survives of the
         features when the picture is shaken, hence (the paper's argument) their stable part. So a
         positive strength smooths; it does not restore detail.

A direction is mean + v_1 + ... + v_k over N such differences, the v_j their principal axes:
orthonormal over the whole flattened difference (all layers together), so each v_j has norm 1 while
the mean keeps its natural size. The two modes differ in three points:

paper     A visual direction is found token by token: one row holds a token's states over all layers.
          An axis of centred data has no sign of its own; it is turned to agree with the mean, which
          is the way from hallucinated to clean. Axes along which nothing varies are left out.
released  Rows of the visual problem come from `reshape(tokens, -1)` on (layers, tokens, width): a
          "token" is then a run of consecutive entries, mostly neighbours of one layer. Axes keep
          `svd_flip`'s sign (largest |u| positive), whatever the mean says. The embeddings take part
          as a further layer in front and are dropped from the result.

Names: N differences, L layers, P tokens of one picture, W width of the vision tower, D of the text
model, G problems solved at once, M features of one row, K kept axes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from sightline.errors import DataError

Mode = Literal["paper", "released"]
_TOKENS_AT_ONCE = 16
"""Tokens whose axes are computed together; bounds memory."""


@dataclass(frozen=True, slots=True)
class Derived:
    """A direction, and by layer what it is made of."""

    direction: torch.Tensor
    """(L, D) or (L, P, W), float32."""
    explained_L: torch.Tensor
    """Share of the differences' variance (around their mean) along the kept axes, 0 to 1."""
    shared_L: torch.Tensor
    """Squared norm of the mean over the mean squared norm: 1 where all differences are equal, about
    1 / N where they have nothing in common."""

    @property
    def norm_L(self) -> torch.Tensor:
        """Norm of each layer's direction; of a visual one, the mean over its tokens."""
        norms = self.direction.norm(dim=-1)
        return norms if norms.ndim == 1 else norms.mean(dim=1)


def text_direction(deltas_NLD: torch.Tensor, *, rank: int = 1, mode: Mode = "paper") -> Derived:
    """The textual direction (L, D) of N differences clean - hallucinated.

    In `released` mode entry 0 of the layer axis is the embedding, and the result has L - 1 layers.
    Raises DataError for differences that are too few for `rank`, or not finite.
    """
    _check(deltas_NLD, rank)
    rows_1NM = deltas_NLD.float().flatten(1)[None]
    axes = _axes(rows_1NM, rank)
    layers, width = deltas_NLD.shape[1:]
    direction_LD = axes.direction(mode)[0].view(layers, width)
    return _result(direction_LD, axes, deltas_NLD.float()[:, :, None], mode)


def visual_direction(deltas_NLPW: torch.Tensor, *, rank: int = 1, mode: Mode = "paper") -> Derived:
    """The visual direction (L, P, W) of N differences perturbed - original.

    In `released` mode entry 0 of the layer axis is the embedding, and the result has L - 1 layers.
    Raises DataError for differences that are too few for `rank`, or not finite.
    """
    _check(deltas_NLPW, rank)
    deltas_NLPW = deltas_NLPW.float()
    count, layers, tokens, width = deltas_NLPW.shape
    if mode == "released":
        rows_PNM = deltas_NLPW.reshape(count, tokens, -1).transpose(0, 1)
        axes = _axes(rows_PNM, rank)
        return _result(axes.direction(mode).reshape(layers, tokens, width), axes, deltas_NLPW, mode)
    rows_PNM = deltas_NLPW.permute(2, 0, 1, 3).flatten(2)
    parts = [_axes(part_GNM, rank) for part_GNM in rows_PNM.split(_TOKENS_AT_ONCE)]
    axes = _Axes(
        torch.cat([part.mean_GM for part in parts]),
        torch.cat([part.axes_GKM for part in parts]),
        torch.cat([part.singular_GK for part in parts]),
    )
    direction_LPW = axes.direction(mode).view(tokens, layers, width).transpose(0, 1).contiguous()
    return _result(direction_LPW, axes, deltas_NLPW, mode)


@dataclass(frozen=True, slots=True)
class _Axes:
    """Mean, first K principal axes (in svd_flip's sign) and their singular values, of G problems."""

    mean_GM: torch.Tensor
    axes_GKM: torch.Tensor
    singular_GK: torch.Tensor

    def direction(self, mode: Mode) -> torch.Tensor:
        """mean + sum of the axes (G, M), the axes turned and weeded as the mode says."""
        if mode == "released":
            return self.mean_GM + self.axes_GKM.sum(1)
        agreement_GK = torch.einsum("gkm,gm->gk", self.axes_GKM, self.mean_GM)
        signs_GK = torch.where(agreement_GK < 0, -1.0, 1.0)
        # What rounding alone spreads is no axis: any unit vector would do.
        scale_G = self.singular_GK[:, 0] + self.mean_GM.norm(dim=1)
        varies_GK = self.singular_GK > 1e-6 * scale_G[:, None]
        return self.mean_GM + torch.einsum("gk,gkm->gm", signs_GK * varies_GK, self.axes_GKM)


def _axes(rows_GNM: torch.Tensor, rank: int) -> _Axes:
    """`pca.py`: centre, thin SVD, svd_flip, the first `rank` axes."""
    mean_GM = rows_GNM.mean(1)
    u_GNS, s_GS, v_GSM = torch.linalg.svd(rows_GNM - mean_GM[:, None], full_matrices=False)
    largest_GS = u_GNS.abs().argmax(1)
    signs_GS = torch.gather(u_GNS, 1, largest_GS[:, None])[:, 0].sign()
    return _Axes(mean_GM, (v_GSM * signs_GS[:, :, None])[:, :rank], s_GS[:, :rank])


def _result(direction: torch.Tensor, axes: _Axes, deltas_NLPW: torch.Tensor, mode: Mode) -> Derived:
    """Direction and statistics by layer, without the embeddings that `released` mode carries along."""
    count, layers, tokens, width = deltas_NLPW.shape
    mean_LPW = deltas_NLPW.mean(0)
    variance_L = (deltas_NLPW - mean_LPW).pow(2).sum((0, 2, 3))
    square_L = deltas_NLPW.pow(2).sum((0, 2, 3)) / count
    captured_GM = (axes.singular_GK[:, :, None] * axes.axes_GKM).pow(2).sum(1)
    if mode == "paper" and len(axes.mean_GM) > 1:  # a problem a token, else all in one row
        captured_L = captured_GM.view(tokens, layers, width).sum((0, 2))
    else:
        captured_L = captured_GM.reshape(layers, tokens, width).sum((1, 2))
    first = 1 if mode == "released" else 0
    return Derived(
        direction[first:].contiguous(),
        _share(captured_L, variance_L)[first:],
        _share(mean_LPW.pow(2).sum((1, 2)), square_L)[first:],
    )


def _share(part_L: torch.Tensor, whole_L: torch.Tensor) -> torch.Tensor:
    """part / whole; 0 where the whole is 0."""
    return torch.where(whole_L > 0, part_L / whole_L.clamp(min=torch.finfo(whole_L.dtype).tiny), 0.0)


def _check(deltas: torch.Tensor, rank: int) -> None:
    if rank < 1 or len(deltas) <= rank:
        raise DataError(
            expected=f"a rank of 1 or more, and more differences than that (centring takes one), for {rank}",
            got=f"{len(deltas)} differences",
            hint="give more pairs or images, or lower derive.rank",
        )
    if not bool(torch.isfinite(deltas).all()):
        raise DataError(
            expected="finite hidden states",
            got="NaN or infinity among their differences",
            hint="load the model in float32 or bfloat16",
        )
