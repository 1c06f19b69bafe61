"""The artefact: written, read back, and refused for any model but its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tiny import fresh_vlm, tiny_vlm

from sightline.errors import DataError, InterventionError, StorageError
from sightline.interventions.directions import DESCRIPTION, TENSORS, Directions


def both() -> Directions:
    torch.manual_seed(1)
    vlm = tiny_vlm("llava")
    return Directions.of(
        vlm, text_LD=torch.randn(3, 64), visual_LPD=torch.randn(2, 17, 32), provenance={"pairs": 4}
    )


def test_what_is_saved_is_read_back(tmp_path: Path):
    saved = both()
    saved.save(tmp_path / "d")
    loaded = Directions.load(tmp_path / "d")
    assert loaded.kind == "text+visual"
    assert loaded.digest == saved.digest
    assert (loaded.identity, loaded.source, loaded.provenance) == (saved.identity, "memory", {"pairs": 4})
    assert torch.equal(loaded.text_of(tiny_vlm("llava")), saved.text_LD)
    assert torch.equal(loaded.visual_of(tiny_vlm("llava")), saved.visual_LPD)
    assert "block i" in json.loads((tmp_path / "d" / DESCRIPTION).read_text())["layer_convention"]


def test_broken_folders_are_named(tmp_path: Path):
    with pytest.raises(StorageError, match=r"jobs/directions\.py"):
        Directions.load(tmp_path / "nothing")
    saved = both()
    saved.save(tmp_path)
    description = json.loads((tmp_path / DESCRIPTION).read_text())
    (tmp_path / DESCRIPTION).write_text(json.dumps(description | {"format": 9}))
    with pytest.raises(StorageError, match="format 9"):
        Directions.load(tmp_path)
    (tmp_path / DESCRIPTION).write_text(json.dumps(description | {"shapes": {}}))
    with pytest.raises(StorageError, match="different runs"):
        Directions.load(tmp_path)
    (tmp_path / DESCRIPTION).write_text(json.dumps(description))
    (tmp_path / TENSORS).write_bytes(b"no tensors")
    with pytest.raises(StorageError, match="safetensors"):
        Directions.load(tmp_path)


def test_nan_wrong_axes_and_emptiness_are_refused():
    bad = torch.randn(3, 64)
    bad[1, 5] = float("nan")
    with pytest.raises(DataError, match="layer 1"):
        Directions("x", text_LD=bad)
    with pytest.raises(DataError, match="2 axes"):
        Directions("x", text_LD=torch.zeros(3, 4, 5))
    with pytest.raises(DataError, match="neither"):
        Directions("x")


def test_directions_of_another_model_or_shape_are_refused():
    vlm, other = tiny_vlm("llava"), fresh_vlm("llava")
    other.source, other.revision = "someone/model", "abc"
    with torch.no_grad():
        next(other.model.parameters()).add_(1.0)
    theirs = Directions.of(other, text_LD=torch.zeros(3, 64))
    with pytest.raises(InterventionError, match="someone/model@abc"):
        theirs.text_of(vlm)
    with pytest.raises(InterventionError, match=r"\(3, 64\)"):
        Directions.of(vlm, text_LD=torch.zeros(3, 32)).text_of(vlm)
    with pytest.raises(InterventionError, match=r"\(3, 64\)"):
        Directions.of(vlm, text_LD=torch.zeros(5, 64)).text_of(vlm)
    with pytest.raises(InterventionError, match="visual part"):
        Directions.of(vlm, text_LD=torch.zeros(3, 64)).visual_of(vlm)


def test_visual_directions_fit_the_towers_tokens_or_are_shared_by_all():
    vlm = tiny_vlm("llava")
    wrong = Directions.of(vlm, visual_LPD=torch.randn(2, 16, 32))
    with pytest.raises(InterventionError, match="17 tokens"):
        wrong.visual_of(vlm)
    assert wrong.shared().visual_of(vlm).shape == (2, 1, 32)
    qwen = tiny_vlm("qwen2_vl")
    with pytest.raises(InterventionError, match="one direction for all tokens"):
        Directions.of(qwen, visual_LPD=torch.randn(2, 16, 32)).visual_of(qwen)
    Directions.of(qwen, visual_LPD=torch.randn(2, 1, 32)).visual_of(qwen)
