"""Frozen numbers of the disturbances, from METHODS 1.5 and 1.8 (measured on the released code)."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from sightline.data import corruptions
from sightline.errors import ConfigError


@pytest.mark.golden
@pytest.mark.parametrize(("step", "rate"), [(200, 0.9939), (500, 0.8630), (700, 0.5927), (999, 0.2850)])
def test_signal_left_after_vcd_steps(step: int, rate: float):
    assert corruptions.signal_rates()[step] == pytest.approx(rate, abs=5e-5)


@pytest.mark.golden
def test_pure_noise_is_half_black_and_a_sixth_white():
    pixels = corruptions.noise_array((200, 200, 3), seed=0)
    assert (pixels == 0).mean() == pytest.approx(0.50, abs=0.01)
    assert (pixels == 255).mean() == pytest.approx(0.16, abs=0.01)
    assert pixels.mean() / 255 == pytest.approx(0.316, abs=0.005)


def test_diffusion_mixes_signal_and_noise_in_the_normalised_space():
    grey = np.full((200, 200, 3), 159, dtype=np.uint8)  # 0.247 of [-1, 1]: the noise is not clipped there
    noisy = corruptions.diffuse_array(grey, step=200, seed=0) / 127.5 - 1.0
    rate = corruptions.signal_rates()[200]
    assert noisy.mean() == pytest.approx(rate * (159 / 127.5 - 1.0), abs=2e-3)
    assert noisy.std() == pytest.approx(np.sqrt(1 - rate**2), abs=2e-3)


def test_the_seed_decides_and_nothing_else():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8))
    for spoil in (
        lambda s: corruptions.diffuse(image, step=500, seed=s),
        lambda s: corruptions.noise(image, seed=s),
    ):
        assert spoil(1).tobytes() == spoil(1).tobytes()
        assert spoil(1).tobytes() != spoil(2).tobytes()
        assert spoil(1).size == image.size
    np.random.seed(0)
    assert (
        corruptions.diffuse(image, step=999, seed=1).tobytes()
        == corruptions.diffuse(image, step=999, seed=1).tobytes()
    )


@pytest.mark.parametrize("step", [-1, 1000])
def test_a_step_outside_the_schedule_is_refused(step: int):
    with pytest.raises(ConfigError, match="999"):
        corruptions.diffuse_array(np.zeros((2, 2, 3), np.uint8), step=step, seed=0)
