"""Images spoiled on purpose: wrong evidence to mine pairs from, shaken pictures to derive directions from.

Each is a pure function of an image and of a seed or an amount. Two are published:

* `diffuse`: t steps of VCD's forward diffusion (Leng et al., CVPR 2024, `vcd_add_noise.py`).
  It acts on pixels normalised to [-1, 1] (mean 0.5, std 0.5) and is mapped back to uint8.
* `noise`: what MMed-RAG's released code (`train_dpo_2stages.py`) puts in an image's place:
  N(0, 1) clipped to [0, 1]. Nothing of the image but its size remains.

Two are plain photography: `blur` and `brighten`.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

from sightline.errors import ConfigError

STEPS = 1000


@cache
def signal_rates() -> np.ndarray:
    """sqrt(abar_t) for t = 0 ... 999: how much of the image is left after step t.

    betas = sigmoid(linspace(-6, 6, 1000)) * (0.005 - 1e-5) + 1e-5, abar = cumprod(1 - betas).
    At t = 200, 500, 700, 999 it is .9939, .8630, .5927, .2850.
    """
    betas = (0.005 - 1e-5) / (1.0 + np.exp(-np.linspace(-6.0, 6.0, STEPS))) + 1e-5
    rates = np.sqrt(np.cumprod(1.0 - betas))
    rates.flags.writeable = False
    return rates


def diffusion_rates(step: int) -> tuple[float, float]:
    """Shares of image and of noise after `step` of 1,000 steps: sqrt(abar), sqrt(1 - abar).

    Raises ConfigError for a step outside 0 to 999.
    """
    if not 0 <= step < STEPS:
        raise ConfigError(expected=f"a diffusion step from 0 to {STEPS - 1}", got=str(step))
    rate = float(signal_rates()[step])
    return rate, float(np.sqrt(1.0 - rate**2))


def diffuse_array(pixels_HWC: np.ndarray, *, step: int, seed: int) -> np.ndarray:
    """uint8 pixels after `step` of 1,000 diffusion steps: sqrt(abar) x + sqrt(1 - abar) eps."""
    rate, spread = diffusion_rates(step)
    eps = np.random.default_rng(seed).standard_normal(pixels_HWC.shape, dtype=np.float32)
    normalised = pixels_HWC.astype(np.float32) / 127.5 - 1.0
    noisy = rate * normalised + spread * eps
    return np.rint((noisy.clip(-1.0, 1.0) + 1.0) * 127.5).astype(np.uint8)


def diffuse(image: Image.Image, *, step: int, seed: int) -> Image.Image:
    """An RGB image after `step` diffusion steps; at 500 it still holds 86% of its signal."""
    return Image.fromarray(diffuse_array(np.asarray(image.convert("RGB")), step=step, seed=seed))


def noise_array(shape: tuple[int, ...], *, seed: int) -> np.ndarray:
    """uint8 noise of MMed-RAG's released form: half of it black, 16% white, mean 0.316 * 255."""
    values = np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)
    return (values.clip(0.0, 1.0) * 255.0).astype(np.uint8)


def noise(image: Image.Image, *, seed: int) -> Image.Image:
    """Pure noise of the image's size."""
    return Image.fromarray(noise_array((image.height, image.width, 3), seed=seed))


def blur(image: Image.Image, *, radius: float) -> Image.Image:
    """An RGB image behind a Gaussian blur of so many pixels' standard deviation; 0 = as it is."""
    return image.convert("RGB").filter(ImageFilter.GaussianBlur(radius))


def brighten(image: Image.Image, *, factor: float) -> Image.Image:
    """An RGB image with every value times `factor`, cut off at 255; 1 = as it is, 0 = black."""
    return ImageEnhance.Brightness(image.convert("RGB")).enhance(factor)
