"""Sharded runs on Ray: the same rows as a for-loop, through killed workers and killed drivers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from sightline.distributed.session import connect
from sightline.distributed.shards import run_sharded
from sightline.errors import DataError, ResourceError

pytestmark = pytest.mark.integration

ROWS, SHARD_ROWS = 40, 4


class Slow:
    """Notes its process and its rows in a log, takes its time, and fails on `poison`."""

    def __init__(self, config: dict):
        self.log = Path(config["log"])
        self.pause_s = config["pause_s"]

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        if "poison" in batch["row_id"]:
            raise DataError("a worker's own error")
        with self.log.open("a") as log:
            log.write("".join(f"{os.getpid()} {row_id}\n" for row_id in batch["row_id"]))
        time.sleep(self.pause_s)
        return {"row_id": batch["row_id"], "double": batch["value"] * 2}


def rows() -> list[dict]:
    return [{"row_id": f"r{i:02d}", "image_uri": "", "value": i} for i in range(ROWS)]


def run(folder: Path, *, pause_s: float = 0.0, **options):
    config = {"log": str(folder / "log"), "pause_s": pause_s}
    options = {"workers": 2, "shard_rows": SHARD_ROWS, "batch_size": 2, **options}
    return run_sharded(options.pop("rows", rows()), Slow, config, folder / "out", **options)


def seen(folder: Path) -> list[tuple[int, str]]:
    log = folder / "log"
    lines = log.read_text().split("\n") if log.exists() else []
    return [(int(line.split()[0]), line.split()[1]) for line in lines if len(line.split()) == 2]


def check_whole(result, folder: Path, workers: int = 2) -> None:
    """Nothing lost, nothing repeated, at most one shard a worker redone."""
    table = result.table().sort_by("row_id")
    assert table["row_id"].to_pylist() == [row["row_id"] for row in rows()]
    assert table["double"].to_pylist() == [2 * i for i in range(ROWS)]
    redone = {
        int(row_id[1:]) // SHARD_ROWS for row_id, n in Counter(r for _, r in seen(folder)).items() if n > 1
    }
    assert len(redone) <= workers


def wait_until(condition, timeout_s: float = 300.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


def test_ray_gives_the_rows_of_a_for_loop(ray_session, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with_ray = run(tmp_path / "a")
    in_loop = run(tmp_path / "b", ray=False)
    assert with_ray.table().equals(in_loop.table())
    assert os.getpid() not in {pid for pid, _ in seen(tmp_path / "a")}


def test_killed_worker_costs_at_most_its_shard(ray_session, tmp_path):
    killer = subprocess.Popen([sys.executable, "-c", KILL_FIRST, str(tmp_path / "log")])
    result = run(tmp_path, pause_s=0.15)
    assert killer.wait(10) == 0, "the worker was not killed"
    check_whole(result, tmp_path, workers=1)


KILL_FIRST = """
import os, signal, sys, time
log = sys.argv[1]
while not (os.path.exists(log) and open(log).read().count("\\n") >= 10):
    time.sleep(0.02)
os.kill(int(open(log).read().split()[0]), signal.SIGKILL)
"""

DRIVER = """
import sys
from pathlib import Path
from tests.integration import test_shards
test_shards.run(Path(sys.argv[1]), pause_s=0.2)
"""


def test_killed_driver_and_rerun_lose_and_repeat_nothing(ray_session, tmp_path):
    environment = {**os.environ, "RAY_ADDRESS": ray_session.address}
    command = [sys.executable, "-c", DRIVER, str(tmp_path)]
    driver = subprocess.Popen(command, env=environment)
    wait_until(lambda: len(seen(tmp_path)) >= 12)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    wait_until(lambda: quiet(tmp_path))
    assert len({r for _, r in seen(tmp_path)}) < ROWS, "the driver had finished before it was killed"
    result = run(tmp_path)
    assert result.resumed >= 1
    check_whole(result, tmp_path)


def quiet(folder: Path) -> bool:
    before = len(seen(folder))
    time.sleep(1.0)
    return len(seen(folder)) == before


def test_workers_error_reaches_the_caller_as_itself(ray_session, tmp_path):
    poisoned = [*rows(), {"row_id": "poison", "image_uri": "", "value": 0}]
    with pytest.raises(DataError, match="a worker's own error"):
        run(tmp_path, rows=poisoned)


def test_more_than_the_cluster_can_ever_have_is_refused_at_once(ray_session, tmp_path):
    with pytest.raises(ResourceError, match="GPUs"):
        run(tmp_path, gpus_per_worker=8)
    with pytest.raises(ResourceError, match="CPUs"):
        connect(workers=10_000)
    assert not seen(tmp_path)
