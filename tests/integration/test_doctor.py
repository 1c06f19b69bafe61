"""`sightline doctor` as a command: joins or starts Ray, and leaves nothing behind."""

import os
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration


def doctor(folder: Path, *settings: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sightline", "doctor", f"run.root={folder}", *settings]
    command.append(f"run.tracking_uri=sqlite:///{folder}/mlflow.db")
    inherited = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={**inherited, **environment},
    )


def line_of(done: subprocess.CompletedProcess[str], name: str) -> str:
    return next(line for line in done.stdout.splitlines() if line.split()[1] == name)


def processes_with(token: str) -> list[str]:
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if token.encode() in (entry / "environ").read_bytes():
                found.append((entry / "comm").read_text().strip())
        except OSError:
            continue  # gone meanwhile, or not ours
    return found


def test_a_private_cluster_starts_and_is_gone_afterwards(tmp_path):
    token = uuid.uuid4().hex
    done = doctor(tmp_path, SIGHTLINE_TEST_TOKEN=token)
    assert done.returncode == 0, done.stdout + done.stderr
    assert line_of(done, "ray").startswith("ok")
    assert line_of(done, "resources").startswith("ok")
    assert processes_with(token) == []


def test_it_joins_a_running_cluster_and_leaves_it_running(ray_session, tmp_path):
    import ray

    done = doctor(tmp_path, "resources.gpus_per_worker=64", RAY_ADDRESS=ray_session.address)
    assert f"cluster at {ray_session.address}" in line_of(done, "ray")
    assert line_of(done, "resources").startswith("fail")
    assert "resources.gpus_per_worker, or" in line_of(done, "resources")
    assert done.returncode == 1
    assert ray.get(ray.put(1)) == 1
