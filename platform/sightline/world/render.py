"""Scenes to pixels. Pillow draws the icons of a font that ships as a PyPI package."""

from __future__ import annotations

from functools import cache
from importlib.resources import as_file, files

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from sightline.world.nouns import COLORS, GROUNDS, ICONS
from sightline.world.scenes import IMAGE_SIZE, Scene


def render(scene: Scene) -> Image.Image:
    """The scene as an RGB image of IMAGE_SIZE x IMAGE_SIZE; the same scene, the same pixels."""
    ground = GROUNDS[scene.context]
    image = Image.new("RGB", (IMAGE_SIZE, IMAGE_SIZE), ground)
    for item in scene.items:
        color = tuple(
            round(item.strength * c + (1 - item.strength) * g)
            for c, g in zip(COLORS[item.color], ground, strict=True)
        )
        corner = (item.x - item.size // 2, item.y - item.size // 2)
        image.paste(color, corner, _icon(item.noun, item.size))
    return Image.fromarray(_add_noise(np.asarray(image), scene))


def _add_noise(pixels: np.ndarray, scene: Scene) -> np.ndarray:
    """Uniform noise of +-scene.noise grey levels, independent a channel."""
    rng = np.random.default_rng([*scene.seed, 1])
    noise = rng.integers(-scene.noise, scene.noise + 1, size=pixels.shape, dtype=np.int8)
    return np.clip(pixels.astype(np.int16) + noise, 0, 255).astype(np.uint8)


@cache
def _icon(noun: str, size: int) -> Image.Image:
    """The icon's 8-bit mask in a box of `size` pixels (drawn large, then reduced, to look smooth)."""
    mask = Image.new("L", (size * 4, size * 4), 0)
    ImageDraw.Draw(mask).text(
        (size * 2, size * 2), _glyphs()[noun], font=_font(size * 4), fill=255, anchor="mm"
    )
    return mask.resize((size, size), Image.Resampling.BOX)


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    with as_file(files("fonticon_mdi7") / "fonts" / "materialdesignicons-webfont.ttf") as path:
        return ImageFont.truetype(str(path), size)


@cache
def _glyphs() -> dict[str, str]:
    """Noun -> its character in the icon font."""
    from fonticon_mdi7 import MDI7

    return {noun: getattr(MDI7, icon).rpartition(".")[2] for noun, icon in ICONS.items()}
