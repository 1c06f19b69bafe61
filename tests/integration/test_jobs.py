"""jobs/dpo.py as a user starts it: on a cluster by `ray job submit`, and with what cannot work."""

from __future__ import annotations

import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from sightline.errors import ConfigError, ImageError, PairError, ResourceError, StorageError
from tests.integration.training_task import write_pairs

ROOT = Path(__file__).parents[2]
SMALL = [
    "dataset.scenes=16",
    "evaluation.scenes=6",
    "evaluation.captions=6",
    "evaluation.bootstrap=100",
    "mining.max_new_tokens=24",
    "evaluation.max_new_tokens=24",
    "training.global_batch=8",
    "training.micro_batch=4",
    "training.max_steps=2",
]


def dpo(*arguments: str) -> None:
    """Run jobs/dpo.py in this process, on the tests' Ray."""
    runpy.run_path(str(ROOT / "jobs" / "dpo.py"))["main"](list(arguments))


@pytest.fixture
def settings(tmp_path) -> list[str]:
    return [f"run.root={tmp_path}/runs", f"run.tracking_uri=sqlite:///{tmp_path}/mlflow.db", *SMALL]


def test_more_gpus_than_the_cluster_can_have_are_refused_at_once(ray_session, settings):
    with pytest.raises(ResourceError, match="at most 0 GPUs"):
        dpo(*settings, "resources.gpus_per_worker=4", "resources.workers=2")


def test_a_folder_that_cannot_be_written_is_refused_at_once(settings):
    with pytest.raises(StorageError, match=r"run\.root"):
        dpo(*settings, "run.root=/proc/runs")


def test_unusable_pairs_are_refused_before_any_model_is_loaded(ray_session, settings, tmp_path):
    with pytest.raises(PairError, match="nothing at"):
        dpo(*settings, f"pairs={tmp_path}/absent")
    path = write_pairs(tmp_path / "data", scenes=2)
    next((tmp_path / "data" / "images").iterdir()).unlink()
    with pytest.raises(ImageError, match="1 of 2 missing"):
        dpo(*settings, f"pairs={path}")


def test_own_data_needs_its_own_held_out_examples(ray_session, settings, tmp_path):
    path = write_pairs(tmp_path / "data", scenes=2)
    own = ["dataset.type=jsonl", f"dataset.path={tmp_path}/data/examples.jsonl"]
    without_world = [s for s in settings if not s.startswith("dataset.")]
    with pytest.raises(ConfigError, match=r"evaluation\.dataset"):
        dpo(*without_world, *own, f"pairs={path}")


@pytest.fixture
def cluster() -> Iterator[str]:
    """The address of the job server of a `ray start --head` cluster of its own."""
    port, dashboard, client, agent = free_ports(4)
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    command = [
        *("ray", "start", "--head", "--block", "--num-cpus=8", f"--port={port}"),
        *(f"--dashboard-port={dashboard}", f"--ray-client-server-port={client}", "--disable-usage-stats"),
        f"--dashboard-agent-listen-port={agent}",  # the default one is taken by any other Ray here
    ]
    head = subprocess.Popen(
        command, env=environment, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    address = f"http://127.0.0.1:{dashboard}"
    try:
        wait_for(f"{address}/api/version", head)
        yield address
    finally:
        head.send_signal(signal.SIGTERM)  # `--block` ends what it started
        try:
            head.wait(timeout=60)
        finally:
            kill_group(head.pid)


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def wait_for(url: str, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 120
    while True:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except (urllib.error.URLError, OSError):
            assert process.poll() is None, "ray start ended"
            assert time.monotonic() < deadline, f"nothing answers at {url}"
            time.sleep(0.5)


def kill_group(leader: int) -> None:
    try:
        os.killpg(leader, signal.SIGKILL)
    except ProcessLookupError:
        return


def test_ray_job_submit_runs_the_whole_job(cluster, settings, tmp_path):
    command = [
        *(str(Path(sys.executable).parent / "ray"), "job", "submit", f"--address={cluster}"),
        *("--working-dir", ".", "--", "python", "jobs/dpo.py", "run.name=submitted", *settings),
    ]
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    for _ in range(20):  # the job server answers some seconds before its agent does
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=580, check=False
        )
        if "No available agent" not in done.stderr:
            break
        time.sleep(3)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    folder = tmp_path / "runs" / "submitted"
    report = json.loads((folder / "report.json").read_text())
    assert {"benchmark", "metric", "before", "after", "delta", "ci_low", "ci_high", "n"} <= set(
        report["comparison"][0]
    )
    assert [row["step"] for row in report["training"]] == [1, 2]
    assert (folder / "report.html").stat().st_size > 10_000
    assert (folder / "training" / "model" / "config.json").is_file()
