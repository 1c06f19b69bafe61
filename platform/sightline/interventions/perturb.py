"""The disturbances that visual directions are measured under, one seeded trial at a time.

VTI masks: on the tensor that the tower is given, a share of the patches of every picture takes that
picture's mean colour (METHODS 1.1). Blur, noise and brightness act on the image before its processor;
blur and brightness draw their amount anew in each trial, since a fixed one would make all trials
equal. A trial depends on the seed, the image's own key and its number alone: not on the batch, the
worker, or the images around it.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING, assert_never

import torch

from sightline.config.directions import Blur, Brightness, Mask, Noise, Perturbation
from sightline.data.corruptions import blur, brighten, diffuse
from sightline.models.encoding import ImageInputs

if TYPE_CHECKING:
    from PIL import Image

    from sightline.models.vlm import Vlm


def perturbed(
    vlm: Vlm, image: Image.Image, inputs: ImageInputs, how: Perturbation, *, seed: int, key: str, trial: int
) -> ImageInputs:
    """One trial: `image`, which the processor has made `inputs` of, disturbed and ready for the tower."""
    number = trial_seed(seed, key, trial)
    draw = torch.Generator().manual_seed(number)
    match how:
        case Mask():
            patch = vlm.model.config.vision_config.patch_size
            pixels = mask_patches(
                inputs.tensors["pixel_values"], patch=patch, ratio=how.ratio, generator=draw
            )
            return replace(inputs, tensors={**inputs.tensors, "pixel_values": pixels})
        case Blur():
            spoiled = blur(image, radius=how.radius * _uniform(draw))
        case Noise():
            spoiled = diffuse(image, step=how.step, seed=number)
        case Brightness():
            spoiled = brighten(image, factor=1.0 + how.spread * (2.0 * _uniform(draw) - 1.0))
        case _:
            assert_never(how)
    return vlm.adapter.image_inputs(vlm.processor, spoiled)


def trial_seed(seed: int, key: str, trial: int) -> int:
    """A number of 63 bits for this trial of this image."""
    digest = hashlib.sha256(f"{seed} {trial} {key}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def mask_patches(
    pixels: torch.Tensor, *, patch: int, ratio: float, generator: torch.Generator
) -> torch.Tensor:
    """Pixels with int(ratio * n) of each picture's n patches set to the picture's mean of each channel.

    Takes one picture (C, H, W), tiles (I, C, H, W), each masked by itself, or, as Qwen's processor
    gives them, patches (P, C * rest), one a row. Edges that hold no whole patch stay as they are.
    """
    if pixels.ndim == 4:
        tiles = [mask_patches(tile, patch=patch, ratio=ratio, generator=generator) for tile in pixels]
        return torch.stack(tiles)
    if pixels.ndim == 2:
        masked_K = _chosen(len(pixels), ratio, generator)
        by_channel_PCR = pixels.view(len(pixels), _CHANNELS, -1).clone()
        by_channel_PCR[masked_K] = by_channel_PCR.mean((0, 2))[:, None]
        return by_channel_PCR.view_as(pixels)
    masked_CHW = pixels.clone()
    rows, columns = pixels.shape[1] // patch, pixels.shape[2] // patch
    mean_C11 = pixels.mean((1, 2), keepdim=True)
    for index in _chosen(rows * columns, ratio, generator).tolist():
        top, left = index // columns * patch, index % columns * patch
        masked_CHW[:, top : top + patch, left : left + patch] = mean_C11
    return masked_CHW


_CHANNELS = 3


def _chosen(count: int, ratio: float, generator: torch.Generator) -> torch.Tensor:
    """VTI's choice: the first int(ratio * count) of a permutation."""
    return torch.randperm(count, generator=generator)[: int(ratio * count)]


def _uniform(generator: torch.Generator) -> float:
    return float(torch.rand((), generator=generator))
