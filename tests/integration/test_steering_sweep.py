"""tune/steering.py on Ray Tune: one loaded model a worker, a chosen point, nothing done twice."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest
import yaml

from sightline.config.mitigations import mitigations_of, to_text
from sightline.errors import ConfigError, StorageError

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "tune" / "steering.py"


@pytest.fixture
def settings(tmp_path) -> list[str]:
    return [
        "--config",
        str(ROOT / "configs" / "tune" / "steering_quick.yaml"),
        f"run.root={tmp_path}/runs",
        "run.name=sweep",
        f"run.tracking_uri=sqlite:///{tmp_path}/mlflow.db",
        "pairs.scenes=6",
        "derive.trials=2",
        "space.methods=[vti]",
        "space.decoders=[greedy,vcd]",
        "search.trials=5",
        "search.random_trials=3",
        "search.scenes=4",
        "evaluation.scenes=5",
        "evaluation.captions=5",
        "evaluation.bootstrap=20",
        "evaluation.max_new_tokens=12",
        "objectives.margin=1",  # any fall of hallucination will do: a winner must be confirmed
    ]


def test_a_search_of_five_trials(ray_session, settings, tmp_path):
    sweep = runpy.run_path(str(SCRIPT))["main"]
    sweep(settings)
    folder = tmp_path / "runs" / "sweep"
    report = json.loads((folder / "report.json").read_text())
    trials = report["trials"]
    assert len(trials) == 5
    assert not any(trial["error"] for trial in trials)
    assert [] in [trial["mitigations"] for trial in trials], "the model as it is, is one of them"
    assert report["baseline"]["mitigations"] == []
    assert report["loads"] == 2, "one model a worker, loaded once"
    assert (folder / "pareto.png").read_bytes().startswith(b"\x89PNG")
    if report["chosen"] is not None:
        chosen = mitigations_of(yaml.safe_load((folder / "chosen.yaml").read_text())["mitigations"])
        assert [to_text(item) for item in chosen] == report["chosen"]["mitigations"]
        assert report["confirmed"]["images"] == 5
        assert all(0 <= p <= 1 for p in report["confirmed"]["mcnemar"].values())
    assert runs_of(tmp_path) == {"sweep": 1, "trials": 5}
    sweep(settings)  # finished: nothing is searched again
    assert json.loads((folder / "report.json").read_text())["trials"] == trials
    with pytest.raises(StorageError, match=r"search\.trials: 5 -> 6"):
        sweep([*settings, "search.trials=6"])


def test_objectives_that_nobody_measures_are_refused_before_any_work(settings, tmp_path):
    sweep = runpy.run_path(str(SCRIPT))["main"]
    with pytest.raises(ConfigError, match=r"caption\.beauty"):
        sweep([*settings, "objectives.kept=[caption.beauty]"])
    assert not (tmp_path / "runs" / "sweep" / "plan.json").exists()


def runs_of(folder: Path) -> dict[str, int]:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    experiment = client.get_experiment_by_name("sightline").experiment_id
    runs = client.search_runs([experiment])
    assert {run.info.status for run in runs} == {"FINISHED"}
    below = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    return {"sweep": len(runs) - len(below), "trials": len(below)}
