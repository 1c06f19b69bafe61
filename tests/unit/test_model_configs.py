"""The configs of real models against the real architectures, on the meta device: no weights."""

import re
from pathlib import Path

import pytest
from torch import nn

from sightline.config.dpo import DpoConfig
from sightline.config.loader import parse
from sightline.models.meta import architecture, build_on_meta

ROOT = Path(__file__).parents[2]
NAMES = sorted(path.stem for path in (ROOT / "configs" / "dpo").glob("*.yaml"))
PROJECTIONS = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


@pytest.fixture(scope="module", params=NAMES)
def case(request: pytest.FixtureRequest) -> tuple[str, DpoConfig, nn.Module]:
    """(the YAML's text, the loaded config, the model on the meta device)."""
    path = ROOT / "configs" / "dpo" / f"{request.param}.yaml"
    config = parse(DpoConfig, ["--config", str(path)])
    return path.read_text(), config, build_on_meta(architecture(config.model.source))


def adapted(config: DpoConfig, model: nn.Module) -> dict[str, nn.Linear]:
    assert config.lora is not None
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and re.fullmatch(config.lora.targets, name)
    }


def test_lora_targets_are_the_text_decoders_projections_and_nothing_else(case):
    _, config, model = case
    names = adapted(config, model)
    blocks = model.config.text_config.num_hidden_layers
    assert len(names) == blocks * len(PROJECTIONS)
    assert {name.rpartition(".")[2] for name in names} == PROJECTIONS
    assert {int(re.search(r"layers\.(\d+)\.", name)[1]) for name in names} == set(range(blocks))
    assert not [name for name in names if "vision" in name or "visual" in name]


def test_the_memory_estimate_counts_the_real_parameters(case):
    text, config, model = case
    total = sum(parameter.numel() for parameter in model.parameters())
    low_rank = sum(
        config.lora.rank * (linear.in_features + linear.out_features)
        for linear in adapted(config, model).values()
    )
    assert f"frozen weights    {total / 1e9:.3f}e9 parameters" in text
    assert re.search(rf"LoRA, rank {config.lora.rank} +{low_rank / 1e6:.1f}e6 parameters", text)
    assert f"{config.training.micro_batch} pairs" in text
    assert f"{config.resources.workers} GPUs" in text


def test_the_memory_estimate_adds_up(case):
    text = case[0]
    rows = [float(m[1]) for m in re.finditer(r"^#   \S.*? {2,}(\d+\.\d)$", text, re.M)]
    *parts, total = rows
    assert len(parts) == 7
    assert sum(parts) == pytest.approx(total, abs=0.05)
