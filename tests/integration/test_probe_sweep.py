"""tune/probe.py on Ray Tune: finds the site that knows, never shows the test rows, survives a kill."""

from __future__ import annotations

import json
import os
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from sightline.config.loader import parse
from sightline.config.probe import ProbeConfig
from sightline.config.probing import SplitSettings
from sightline.errors import StorageError
from tests.integration.probe_store import SITES, write_store

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "tune" / "probe.py"


@pytest.fixture
def settings(tmp_path) -> list[str]:
    return [
        f"activations={write_store(tmp_path / 'store')}",
        f"run.root={tmp_path}/runs",
        f"run.tracking_uri=sqlite:///{tmp_path}/mlflow.db",
        "probe.widths=[8,4]",
        "probe.epochs=6",
        "space.widths=[[8],[8,4]]",
        "space.lr=[0.001,0.1]",
        "search.grace_epochs=2",
        "search.random_trials=2",
        "seeds=[1,2]",
        "bootstrap=50",
    ]


def test_a_search_of_four_trials(ray_session, settings, tmp_path):
    sweep = runpy.run_path(str(SCRIPT))["main"]
    folder = tmp_path / "runs" / "sweep-probe"
    # As after a kill before the first snapshot, where Ray's restore would quietly run one trial.
    (folder / "search").mkdir(parents=True)
    (folder / "search" / "tuner.pkl").write_bytes(b"cut short")
    sweep([*settings, "search.trials=4"])
    report = json.loads((folder / "report.json").read_text())
    assert len(report["trials"]) == 4
    assert all(trial["end"] in ("overtaken", "patience", "epochs") for trial in report["trials"])
    assert all(trial["site"] != SITES[1] for trial in report["trials"])  # the constant one
    best = max(trial["auroc"] for trial in report["trials"])
    assert report["winner"]["trial"]["auroc"] == best
    assert report["default"]["site"] in SITES
    difference = report["difference"]
    assert difference["low"] <= difference["delta"] <= difference["high"]
    assert report["rows"]["train"] + report["rows"]["valid"] + report["rows"]["test"] == 300
    assert (folder / "search.png").read_bytes().startswith(b"\x89PNG")
    assert (folder / "winner" / "probe.safetensors").is_file()
    again = parse(ProbeConfig, ["--config", str(folder / "winner.yaml")])
    assert again.sites == (report["winner"]["site"],)
    assert again.probe.model_dump(mode="json") == report["winner"]["settings"]
    assert runs_of(tmp_path) == {"sweep-probe": 1, "trials": 4}
    sweep([*settings, "search.trials=4"])  # finished: nothing is searched again
    assert json.loads((folder / "report.json").read_text())["trials"] == report["trials"]
    with pytest.raises(StorageError, match=r"search\.trials: 4 -> 5"):
        sweep([*settings, "search.trials=5"])


class Caught(Exception):
    """What the trials would have been given."""


def test_trials_are_given_no_test_rows(ray_session, settings, tmp_path, monkeypatch):
    from sightline.distributed import probe_sweep
    from sightline.distributed.probe_inputs import read_inputs

    def caught(data, features, *_):
        raise Caught(data, features)

    monkeypatch.setattr(probe_sweep, "search", caught)
    with pytest.raises(Caught) as error:
        runpy.run_path(str(SCRIPT))["main"](settings)
    data, features = error.value.args
    inputs = read_inputs(str(tmp_path / "store"), root="", label="label")
    split = inputs.split(SplitSettings(valid_share=0.2))
    for site, shown_ND in features.items():
        rows = {row.tobytes() for row in shown_ND}
        assert len(shown_ND) == len(data.labels_N) == len(split.train) + len(split.valid)
        tested = {row.tobytes() for row in inputs.features(site)[split.test]}
        assert tested
        assert not rows & tested


def test_a_killed_search_goes_on(ray_session, settings, tmp_path):
    """SIGKILL after some trials; the second start finishes with as many trials as asked, each once."""
    command = [sys.executable, str(SCRIPT), *settings, "search.trials=6", "resources.workers=1"]
    environment = os.environ | {"RAY_ADDRESS": ray_session.address}
    log = (tmp_path / "first.log").open("w")
    first = subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=log, stderr=log, start_new_session=True
    )
    folder = tmp_path / "runs" / "sweep-probe"
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and first.poll() is None and finished(folder) < 2:
        time.sleep(0.2)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    before = finished(folder)
    assert before >= 2, (tmp_path / "first.log").read_text()[-3000:]
    assert not (folder / "trials.json").exists()
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    trials = json.loads((folder / "trials.json").read_text())
    assert len({trial["trial_id"] for trial in trials}) == len(trials) == 6
    assert not any(trial["error"] or np.isnan(trial["auroc"]) for trial in trials)
    assert runs_of(tmp_path) == {"sweep-probe": 1, "trials": 6}


def finished(folder: Path) -> int:
    """Trials that Ray Tune's newest snapshot calls finished."""
    snapshots = sorted((folder / "search").glob("experiment_state-*.json"))
    if not snapshots:
        return 0
    try:
        state = json.loads(snapshots[-1].read_text())
    except ValueError:
        return 0
    return sum(json.loads(trial)["status"] == "TERMINATED" for trial, _ in state["trial_data"])


def runs_of(folder: Path) -> dict[str, int]:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    experiment = client.get_experiment_by_name("sightline").experiment_id
    runs = client.search_runs([experiment])
    assert {run.info.status for run in runs} == {"FINISHED"}
    below = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    return {"sweep-probe": len(runs) - len(below), "trials": len(below)}
