"""Steering in weights: the same logits from stock classes, and refusals of what no bias can say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from steered import directions
from tiny import fresh_vlm, sample_prompts, tiny_vlm

from sightline.errors import InterventionError, StorageError
from sightline.interventions.bake import bake
from sightline.interventions.stack import Stack
from sightline.interventions.steering import AddSteering, TextVti
from sightline.models.vlm import Vlm


def logits(model: torch.nn.Module, vlm: Vlm) -> torch.Tensor:
    with torch.inference_mode():
        return model(**vlm.collate(vlm.encode(sample_prompts()))).logits


@pytest.mark.parametrize("family", ["smolvlm", "idefics3", "llava", "llava_next", "instructblip"])
def test_the_stock_model_gives_the_hooked_models_logits(family: str, tmp_path: Path):
    vlm = tiny_vlm(family)
    steering = AddSteering(directions(vlm), 0.7, layers=[0, 2])
    plain = logits(vlm.model, vlm)
    with Stack([steering]).attached(vlm):
        hooked = logits(vlm.model, vlm)
    bake(vlm, steering, tmp_path / "baked")
    stock, found = type(vlm.model).from_pretrained(tmp_path / "baked", output_loading_info=True)
    assert not found["missing_keys"]
    assert not found["unexpected_keys"]
    difference = (logits(stock.eval(), vlm) - hooked).abs().max()
    assert float(difference) <= 1e-4
    assert float((hooked - plain).abs().max()) > 0.1
    assert torch.equal(logits(vlm.model, vlm), plain)
    assert stock.generation_config.eos_token_id == vlm.model.generation_config.eos_token_id


def test_a_baked_folder_loads_as_any_other_and_says_what_is_in_it(tmp_path: Path):
    vlm = tiny_vlm("llava")
    steering = AddSteering(directions(vlm), 0.7)
    with Stack([steering]).attached(vlm):
        hooked = vlm.generate(sample_prompts(), max_new_tokens=6)
    folder = bake(vlm, steering, tmp_path / "baked")
    loaded = Vlm.load(str(folder))
    assert [a[0].token_ids for a in loaded.generate(sample_prompts(), max_new_tokens=6)] == [
        a[0].token_ids for a in hooked
    ]
    note = json.loads((folder / "steering.json").read_text())
    assert note["strength"] == 0.7
    assert note["model"]["identity"] == vlm.identity != loaded.identity
    with safe_open(folder / "model.safetensors", "pt") as file:
        names = [name for name in file.keys() if "vision_tower" in name]  # noqa: SIM118
    assert names
    assert all("vision_tower.vision_model." in name for name in names)


def test_baking_twice_adds_up_and_keeps_precision_and_ties(tmp_path: Path):
    vlm = fresh_vlm("smolvlm")
    vlm.model.config.text_config.tie_word_embeddings = True
    vlm.model.to(torch.bfloat16)
    once = bake(vlm, AddSteering(directions(vlm), 0.25, layers=[1]), tmp_path / "once")
    loaded = Vlm.load(str(once), dtype="bfloat16")
    assert loaded.model.dtype == torch.bfloat16
    text_LD = directions(loaded).text_LD
    assert text_LD is not None
    twice = bake(loaded, AddSteering(directions(loaded), 0.25, layers=[1]), tmp_path / "twice")
    bias_D = Vlm.load(str(twice)).adapter.text_mlps(Vlm.load(str(twice)).model)[1].down_proj.bias
    torch.testing.assert_close(bias_D, 0.5 * text_LD[1], atol=0.02, rtol=0.02)


def test_what_no_bias_can_say_is_refused(tmp_path: Path):
    vlm, qwen = tiny_vlm("llava"), tiny_vlm("qwen2_vl")
    with pytest.raises(InterventionError, match="depends on the state"):
        bake(vlm, TextVti(directions(vlm)), tmp_path / "a")
    with pytest.raises(InterventionError, match="scope decode"):
        bake(vlm, AddSteering(directions(vlm), scope="decode"), tmp_path / "a")
    with pytest.raises(InterventionError, match="mlp_bias"):
        bake(qwen, AddSteering(directions(qwen)), tmp_path / "a")
    with pytest.raises(InterventionError, match="layers"):
        bake(vlm, AddSteering(directions(vlm), layers=[9]), tmp_path / "a")
    assert not (tmp_path / "a").exists()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("mine")
    with pytest.raises(StorageError, match="empty folder"):
        bake(vlm, AddSteering(directions(vlm)), tmp_path / "full")
