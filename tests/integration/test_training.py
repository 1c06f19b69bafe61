"""Training on a local Ray: every engine gives the same losses, and no kill loses the run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from mlflow import MlflowClient

from sightline.models.vlm import Vlm
from tests.integration.training_task import configuration, run, write_pairs

OFFLOAD = Path(__file__).parents[2] / "configs" / "deepspeed" / "zero3_offload.json"
WEIGHT = "model.text_model.layers.0.self_attn.q_proj.weight"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("training")
    write_pairs(folder)
    return folder


@pytest.fixture(scope="module")
def baseline(ray_session, folder) -> list[float]:
    """The losses of one worker with plain torch."""
    return losses_of(run(configuration(folder, "one"), reference_folder=f"{folder}/reference"))


def losses_of(done) -> list[float]:
    return [step["loss"] for step in done.history]


def tracked_runs(config) -> list:
    client = MlflowClient(config.run.tracking_uri)
    found = client.search_runs([client.get_experiment_by_name("tests").experiment_id])
    return [r for r in found if r.data.tags["sightline.folder"] == config.run.folder]


@pytest.mark.parametrize("deepspeed", ["null", "0", "3"])
def test_two_workers_and_every_engine_give_the_losses_of_one_worker(baseline, folder, deepspeed):
    config = configuration(folder, f"two-{deepspeed}", "resources.workers=2", f"deepspeed={deepspeed}")
    done = run(config, reference_folder=f"{folder}/reference")
    np.testing.assert_allclose(losses_of(done), baseline, atol=5e-5)
    exported, start = Vlm.load(done.model).model, Vlm.load(f"{folder}/model").model
    assert not torch.equal(exported.get_parameter(WEIGHT), start.get_parameter(WEIGHT))


def test_zero_2_resumes_on_another_number_of_workers(baseline, folder):
    two = configuration(folder, "resized", "resources.workers=2", "deepspeed=2")
    done = run(two, reference_folder=f"{folder}/reference")
    np.testing.assert_allclose(losses_of(done), baseline, atol=5e-5)
    before = Vlm.load(done.model).model.state_dict()
    again = run(configuration(folder, "resized", "deepspeed=2"), reference_folder=f"{folder}/reference")
    assert again.resumed_from == len(baseline)
    after = Vlm.load(again.model).model.state_dict()
    for name, value in before.items():
        torch.testing.assert_close(after[name], value, atol=1e-6, rtol=0)


def test_an_adapter_trained_with_zero_3_and_offload_loads(baseline, folder):
    config = configuration(folder, "lora", "resources.workers=2", "lora.rank=4", f"deepspeed={OFFLOAD}")
    done = run(config, reference_folder=f"{folder}/reference")
    assert done.history[0]["loss"] == pytest.approx(baseline[0], abs=1e-5)
    adapted = Vlm.load(f"{folder}/model", adapter_path=done.model).model
    plain = Vlm.load(f"{folder}/model").model
    assert not torch.equal(adapted.get_parameter(WEIGHT), plain.get_parameter(WEIGHT))


def test_a_killed_worker_is_replaced_and_the_run_goes_on(baseline, folder):
    config = configuration(folder, "worker", "resources.workers=2", "training.checkpoint_every=1")
    with ThreadPoolExecutor(1) as pool:
        killer = pool.submit(kill_a_worker, config)
        done = run(config, reference_folder=f"{folder}/reference")
        killer.result()  # raises if there was nothing to kill
    np.testing.assert_allclose(losses_of(done), baseline, atol=5e-5)
    assert 1 <= done.resumed_from < len(baseline)
    (tracked,) = tracked_runs(config)
    assert tracked.info.status == "FINISHED"


def kill_a_worker(config) -> None:
    wait_for_checkpoint(config)
    # By the process tree, not Ray's State API, which may ask a stale cluster's address and die.
    workers = [p for p in psutil.Process().children(recursive=True) if is_training_worker(p)]
    os.kill(max(workers, key=lambda p: p.create_time()).pid, signal.SIGKILL)


def is_training_worker(process: psutil.Process) -> bool:
    try:
        return process.cmdline()[:1] != [] and process.cmdline()[0].startswith("ray::RayTrainWorker")
    except psutil.NoSuchProcess:
        return False


def wait_for_checkpoint(config, alive=lambda: True) -> None:
    """Until Ray has noted a checkpoint (its files are there a little earlier)."""
    noted = Path(config.run.folder) / "training" / "checkpoints" / "checkpoint_manager_snapshot.json"
    deadline = time.monotonic() + 400
    while not noted.is_file() or "step-" not in noted.read_text():
        assert alive()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_killed_driver_goes_on_under_the_same_name(ray_session, baseline, folder):
    config = configuration(folder, "driver")
    command = [sys.executable, "-m", "tests.integration.training_task", str(folder)]
    command.append("training.checkpoint_every=1")
    environment = os.environ | {"RAY_ADDRESS": ray_session.address}
    with (folder / "driver.log").open("w") as log:
        first = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        wait_for_checkpoint(config, alive=lambda: first.poll() is None)
        first.kill()
        first.wait()
    second = subprocess.run(
        command, capture_output=True, text=True, timeout=500, check=False, env=environment
    )
    assert second.returncode == 0, second.stderr[-3000:]
    result = json.loads(second.stdout.splitlines()[-1])
    np.testing.assert_allclose(result["losses"], baseline, atol=5e-5)
    assert 1 <= result["resumed"] < len(baseline)
    (tracked,) = tracked_runs(config)
    assert tracked.info.status == "FINISHED"
    assert len(MlflowClient(config.run.tracking_uri).get_metric_history(tracked.info.run_id, "loss")) >= 12
