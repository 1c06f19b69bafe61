"""The plan of a run, printed without weights: sizes, batches, and memory that adds up."""

from __future__ import annotations

from pathlib import Path

import pytest

from sightline.config.dpo import DpoConfig
from sightline.config.loader import parse
from sightline.distributed.dry_run import plan
from sightline.errors import ConfigError, PairError
from sightline.models.meta import architecture, build_on_meta, measure

ROOT = Path(__file__).parents[2]


def value(text: str, name: str) -> str:
    """What the plan says under one name."""
    line = next(line for line in text.splitlines() if line.strip().startswith(name + " "))
    return line.strip().removeprefix(name).strip()


@pytest.mark.parametrize(
    ("name", "parameters", "vision", "text"),
    [
        ("smolvlm2_2b", "2.247e9", "27 blocks, width 1152", "24 blocks, width 2048"),
        ("llava15_7b", "7.063e9", "24 blocks, width 1024", "32 blocks, width 4096"),
        ("qwen2_5_vl_7b", "8.292e9", "32 blocks, width 1280", "28 blocks, width 3584"),
    ],
)
def test_every_shipped_config_has_a_plan(monkeypatch, name, parameters, vision, text):
    monkeypatch.chdir(ROOT)
    found = plan(parse(DpoConfig, ["--config", f"configs/dpo/{name}.yaml", "--dry-run"]))
    assert value(found, "parameters") == parameters
    assert value(found, "vision") == vision
    assert value(found, "text").startswith(text)
    assert value(found, "pairs a step") == "64 = 4 in a forward x 8 workers x 2 accumulated"
    assert value(found, "engine") == "DeepSpeed, ZeRO 2"


def test_memory_follows_the_stage_and_the_offload():
    on_gpus = ["resources.workers=4", "resources.gpus_per_worker=1", "training.micro_batch=8"]
    plans = {
        stage: plan(parse(DpoConfig, [*on_gpus, f"deepspeed={stage}"]))
        for stage in ("0", "1", "2", "3", f"{ROOT}/configs/deepspeed/zero3_offload.json")
    }
    gb = measure(build_on_meta(architecture("world"))).parameters / 1e9
    sums = [float(value(text, "sum without activations").removesuffix(" GB")) for text in plans.values()]
    expected = [16 * gb, (4 + 12 / 4) * gb, (2 + 14 / 4) * gb, 16 / 4 * gb, 2 / 4 * gb]
    assert sums == pytest.approx(expected, abs=0.006)


def test_a_plan_needs_what_the_run_needs(tmp_path):
    with pytest.raises(PairError, match="nothing at"):
        plan(parse(DpoConfig, [f"pairs={tmp_path}/absent"]))
    with pytest.raises(ConfigError, match="at least one linear layer"):
        plan(parse(DpoConfig, ["lora.targets=nothing"]))
