"""The Workers behind directions, without Ray, on tiny models: neighbours, errors, tiles, sizes."""

from __future__ import annotations

import numpy as np
import pytest
from tiny import random_image, tiny_vlm

from sightline.config.directions import DeriveSettings, Mask
from sightline.config.model import ModelConfig
from sightline.distributed.directions_worker import (
    DeltaParts,
    DirectionsWorkerConfig,
    TextDeltas,
    VisualDeltas,
)
from sightline.distributed.parts import Kept
from sightline.distributed.storage import Storage
from sightline.errors import DataError
from sightline.records import PreferencePair

SIZES = {"a.png": (40, 40), "b.png": (40, 40), "wide.png": (84, 40)}


@pytest.fixture
def folder(tmp_path):
    for seed, (name, size) in enumerate(SIZES.items()):
        random_image(seed, *size).save(tmp_path / name)
    return tmp_path


def config(**settings) -> DirectionsWorkerConfig:
    derive = DeriveSettings(trials=3, batch_size=2, **settings)
    return DirectionsWorkerConfig(ModelConfig(), derive, Mask(ratio=0.5))


def columns(rows: list[dict]) -> dict[str, np.ndarray]:
    return {name: np.asarray([row[name] for row in rows], dtype=object) for name in rows[0]}


def pair(folder, image: str, clean: str, wrong: str) -> dict:
    uri = str(folder / image)
    return PreferencePair(f"{image}/{clean}", "", "", uri, "What?", "", clean, wrong, "test").to_row()


def images(folder, *names: str) -> dict[str, np.ndarray]:
    return columns([{"image_uri": str(folder / name)} for name in names])


def test_a_pairs_difference_does_not_depend_on_its_neighbours(folder):
    worker = TextDeltas(config(), tiny_vlm("smolvlm"))
    rows = [
        pair(folder, "a.png", "A dog.", "A dog and a cat."),
        pair(folder, "wide.png", "Red.", "Blue bus."),
    ]
    both = worker(columns(rows))
    assert both["delta"][0].shape == (3, 64)
    for i, row in enumerate(rows):
        alone = worker(columns([row]))["delta"][0]
        np.testing.assert_allclose(both["delta"][i], alone, atol=5e-5)
    swapped = worker(columns([pair(folder, "a.png", "A dog and a cat.", "A dog.")]))["delta"][0]
    np.testing.assert_allclose(swapped, -both["delta"][0], atol=5e-5)


def test_a_pair_that_fails_costs_its_own_row(folder):
    worker = TextDeltas(config(), tiny_vlm("smolvlm"))
    (folder / "bad.png").write_bytes(b"no image")
    long = "A dog. " * 2000
    rows = [
        pair(folder, "a.png", "A dog.", "A cat."),
        pair(folder, "bad.png", "A dog.", "A cat."),
        pair(folder, "b.png", "A dog.", long),
        pair(folder, "b.png", "Red.", "Blue."),
    ]
    found = worker(columns(rows))
    assert [bool(error) for error in found["error"]] == [False, True, True, False]
    assert "bad.png" in found["error"][1]
    assert found["delta"][0] is not None
    assert found["delta"][2] is None


@pytest.mark.parametrize(("family", "shape"), [("smolvlm", (2, 16, 32)), ("llava", (2, 17, 32))])
def test_an_images_difference_does_not_depend_on_its_neighbours(family, shape, folder):
    """SmolVLM's images have several tiles, of which the mean is taken."""
    worker = VisualDeltas(config(), tiny_vlm(family))
    both = worker(images(folder, "a.png", "wide.png"))
    assert [delta.shape for delta in both["delta"]] == [shape, shape]
    alone = worker(images(folder, "wide.png"))["delta"][0]
    np.testing.assert_allclose(both["delta"][1], alone, atol=1e-6)
    released = VisualDeltas(config(mode="released"), tiny_vlm(family))(images(folder, "wide.png"))["delta"][0]
    np.testing.assert_allclose(released[1:], alone, atol=1e-6)


def test_images_of_several_sizes_need_one_direction_for_all_tokens(folder):
    batch = images(folder, "a.png", "wide.png")
    each = VisualDeltas(config(), tiny_vlm("qwen2_vl"))(batch)
    kept = Kept({"delta": each["delta"]}, np.asarray([True, True]))
    with pytest.raises(DataError, match=r"derive\.tokens=mean"):
        DeltaParts().write(Storage.at(folder / "out"), "part.safetensors", [kept])
    mean = VisualDeltas(config(tokens="mean"), tiny_vlm("qwen2_vl"))(batch)
    assert {delta.shape for delta in mean["delta"]} == {(2, 1, 32)}
    np.testing.assert_allclose(mean["delta"][0], each["delta"][0].mean(1, keepdims=True), atol=1e-6)
