"""Engines, checkpoints and the step of a training worker, without Ray."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from sightline.config.dpo import DpoConfig
from sightline.config.loader import parse
from sightline.distributed import checkpoints
from sightline.distributed.engines import EngineSettings, TorchEngine
from sightline.distributed.reference_cache import Reference
from sightline.distributed.storage import Storage
from sightline.distributed.train_loop import Place, Task, _Training
from sightline.distributed.trainer import PAIRS, _table, fingerprint
from sightline.errors import ConfigError, ModelError, StorageError
from sightline.models.vlm import Vlm
from sightline.records import PreferencePair

SETTINGS = EngineSettings(4, 2, 2, 0.1, 1.0, False, None)


def stepped(engine: TorchEngine, steps: int) -> nn.Module:
    for step in range(steps):
        for half in range(2):
            engine.backward(engine(torch.full((2, 3), float(step + half))).square().mean())
        engine.step(0.1)
    return engine.module


def test_a_torch_engine_resumes_exactly(tmp_path):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 1))
    module[0].bias.requires_grad_(False)
    straight, broken = TorchEngine(copy.deepcopy(module), SETTINGS), TorchEngine(module, SETTINGS)
    stepped(broken, 2)
    broken.save(tmp_path)
    resumed = TorchEngine(copy.deepcopy(straight.module), SETTINGS)
    resumed.load(tmp_path)
    stepped(resumed, 2)
    stepped(broken, 2)
    for name, value in resumed.module.state_dict().items():
        torch.testing.assert_close(value, broken.module.state_dict()[name], atol=0, rtol=0)


def test_a_checkpoint_of_another_run_is_refused_by_name(tmp_path):
    saved = checkpoints.Meta(3, 1, 0, {"pairs": "a", "steps": 4})
    checkpoints.check_same_run(saved, {"pairs": "a", "steps": 4})
    with pytest.raises(ConfigError, match="pairs: 'a' -> 'b'"):
        checkpoints.check_same_run(saved, {"pairs": "b", "steps": 4})
    with pytest.raises(StorageError, match="a complete checkpoint"):
        checkpoints.read_meta(tmp_path)


@pytest.fixture
def training(tmp_path):
    """A worker of a run over four pairs, alone."""
    Image.new("RGB", (96, 96), "red").save(tmp_path / "red.png")
    uri = str(tmp_path / "red.png")
    pairs = [
        PreferencePair(f"p{i}", "e", uri, uri, f"Is there a {noun}?", "", "Yes.", "No.", "cm")
        for i, noun in enumerate(["dog", "cat", "cup", "bus"])
    ]

    def make(*settings: str, weight: float = 1.0) -> _Training:
        config = parse(
            DpoConfig,
            [
                f"run.root={tmp_path}",
                "training.global_batch=4",
                "training.micro_batch=2",
                "training.precision=float32",
                *settings,
            ],
        )
        weighed = [dataclasses.replace(pair, weight=weight) for pair in pairs]
        reference = Reference(weighed, np.full(4, -2.0), np.full(4, -2.0), 0)
        storage = Storage.at(tmp_path / "run")
        storage.write_table(PAIRS, _table(reference))
        task = Task(
            config.model_dump(mode="json"), None, storage, fingerprint(config, reference, {}), "", None
        )
        return _Training(task, Place(0, 1, torch.device("cpu")))

    return make


def first_step(training: _Training) -> dict[str, float]:
    engine = TorchEngine(training._policy.forward, training._settings)
    batches = training._batches(0)  # kept: it prepares the next micro-batch meanwhile
    step, micro_batches = next(batches)
    return training._step(engine, step, micro_batches)


def test_accumulation_does_not_change_a_step(training):
    small, large = (
        first_step(training("training.micro_batch=1")),
        first_step(training("training.micro_batch=4")),
    )
    assert small == pytest.approx(large, rel=1e-4, abs=1e-6)


def test_a_loss_that_is_not_finite_stops_the_run_with_advice(training):
    with pytest.raises(ModelError, match=r"finite loss.*Lower training.lr"):
        first_step(training(weight=float("nan")))


@pytest.mark.parametrize("lora", [(), ("lora.rank=4",)], ids=["full", "adapter"])
def test_an_exported_model_loads_and_is_the_trained_one(training, tmp_path, lora):
    worker = training(*lora, "training.lr=1e-2", "training.warmup_ratio=0")
    engine = TorchEngine(worker._policy.forward, worker._settings)
    for step, micro_batches in worker._batches(0):
        worker._step(engine, step, micro_batches)
    worker._policy.save(str(tmp_path / "model"), engine.weights())
    loaded = (
        Vlm.load("world", adapter_path=str(tmp_path / "model")) if lora else Vlm.load(str(tmp_path / "model"))
    )
    with torch.no_grad():
        batch = worker._collate(np.arange(4))
        trained = engine.module.eval()(batch)
        model = copy.copy(worker._policy.forward)
        model._modules = {"model": loaded.model}
        torch.testing.assert_close(model(batch), trained, atol=1e-4, rtol=1e-4)
