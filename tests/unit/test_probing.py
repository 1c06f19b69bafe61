"""jobs/probe.py without Ray: inputs and their check, resuming probe by probe, what may not mix."""

from __future__ import annotations

import json
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sightline.activations.store import ActivationStore
from sightline.config.loader import parse
from sightline.config.probe import ProbeConfig
from sightline.config.sweep_probe import SweepProbeConfig
from sightline.distributed.bank_tasks import appearing
from sightline.distributed.probe_inputs import examine, read_inputs
from sightline.errors import ConfigError, DataError, StorageError
from tests.integration.probe_store import SITES, write_store

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    return write_store(tmp_path_factory.mktemp("store"))


@pytest.fixture
def settings(store, tmp_path) -> list[str]:
    return [
        f"activations={store}",
        f"run.root={tmp_path}/runs",
        f"run.tracking_uri=sqlite:///{tmp_path}/mlflow.db",
        "probe.head=linear",
        "probe.lr=0.05",
        "probe.epochs=8",
        "bootstrap=50",
    ]


def probe(*arguments: str) -> None:
    runpy.run_path(str(ROOT / "jobs" / "probe.py"))["main"](list(arguments))


def test_no_store_names_the_job_that_makes_one(tmp_path):
    with pytest.raises(StorageError, match=r"python jobs/extract\.py"):
        probe(f"run.root={tmp_path}/runs")


def test_rows_without_a_label_are_left_out(tmp_path):
    whole = ActivationStore.open(write_store(tmp_path / "store", labelled=0.5))
    inputs = read_inputs(str(tmp_path / "store"), root="", label="label")
    labels_N = whole.column("label")
    assert len(inputs.rows.labels_N) == int((~np.isnan(labels_N)).sum()) < len(whole)
    assert inputs.features(SITES[2]).shape == (len(inputs.index_n), 16)
    np.testing.assert_array_equal(inputs.features(SITES[2]), whole.features(SITES[2])[inputs.index_n])


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"label": "lable"}, "a column among"),
        ({"label": "question"}, "numbers in the column question"),
        ({"label": "label", "sites": ("query_token.layer_9",)}, "a site among"),
    ],
)
def test_what_is_not_in_the_store_is_refused(store, arguments, match):
    with pytest.raises(DataError, match=match):
        read_inputs(str(store), root="", **arguments)


def test_the_check_says_what_it_found_and_trains_nothing(settings, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        probe(*settings, "--check")
    told = capsys.readouterr().out
    assert stop.value.code == 0
    assert "300 of 300 expected" in told
    assert "same vector in every row" in told
    assert told.splitlines()[-1].startswith("ok")
    assert not (tmp_path / "runs").exists()


def test_the_check_finds_a_damaged_part_and_a_single_class(tmp_path, settings, capsys):
    folder = write_store(tmp_path / "damaged")
    part = folder / "part-000001.h5"
    data = bytearray(part.read_bytes())
    data[len(data) // 2] ^= 0xFF
    part.write_bytes(bytes(data))
    with pytest.raises(SystemExit) as stop:
        probe(*settings, f"activations={folder}", "--check")
    assert stop.value.code == 1
    assert "FAULT" in capsys.readouterr().out
    inputs = read_inputs(str(write_store(tmp_path / "one")), root="", label="label")
    inputs.rows.labels_N[:] = 0
    assert any("split" in fault for fault in examine(inputs, ProbeConfig().split).faults)


def test_a_run_is_resumed_probe_by_probe(settings, tmp_path):
    probe(*settings)
    folder = tmp_path / "runs" / "probe"
    trained = {"vision_only", "query_token.layer_0", "query_token.layer_3"}
    assert {p.parent.name for p in folder.glob("probes/*/results.json")} == trained
    report = json.loads((folder / "report.json").read_text())
    assert report["best"] == "query_token.layer_3"
    assert list(report["refused"]) == ["query_token.embedding"]
    assert {"question_type", "text_only", "image_only", "shuffled_labels"} <= set(report["controls"])
    assert (folder / "summary.html").stat().st_size > 5_000
    assert (folder / "bank.png").is_file()
    kept = {name: (folder / "probes" / name / "probe.safetensors").stat().st_mtime_ns for name in trained}
    lost = folder / "probes" / "query_token.layer_0"
    before = json.loads((lost / "results.json").read_text())["test_set"]
    shutil.rmtree(lost)
    probe(*settings)
    again = {name: (folder / "probes" / name / "probe.safetensors").stat().st_mtime_ns for name in trained}
    assert {name for name in trained if kept[name] != again[name]} == {"query_token.layer_0"}
    after = json.loads((lost / "results.json").read_text())["test_set"]
    assert after == pytest.approx(before, abs=1e-6)  # alone or in a bank: the same probe
    for other, named in (("probe.lr=0.1", r"probe\.lr"), ("seeds=[7]", "first_seed: 42 -> 7")):
        with pytest.raises(StorageError, match=named):
            probe(*settings, other)


def test_halps_own_protocol_has_no_validation_rows(settings, tmp_path):
    probe("--config", str(ROOT / "configs" / "probe" / "halp.yaml"), *settings, "run.name=halp")
    report = json.loads((tmp_path / "runs" / "halp" / "report.json").read_text())
    assert (report["split"], report["best_chosen_on"]) == ("question", "test rows")
    assert report["rows"]["valid"]["n"] == 0


def test_further_seeds_have_folders_of_their_own_and_mlflow_a_run_a_probe(settings, tmp_path):
    probe(*settings, "sites=[query_token.layer_3]", "seeds=[1,2]")
    folder = tmp_path / "runs" / "probe"
    names = {path.parent.name for path in folder.glob("probes/*/probe.json")}
    assert names == {"query_token.layer_3", "query_token.layer_3.seed_2"}
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    experiment = client.get_experiment_by_name("sightline").experiment_id
    runs = {run.info.run_name: run for run in client.search_runs([experiment])}
    assert set(runs) == {"probe", *names}
    assert all(run.info.status == "FINISHED" for run in runs.values())
    (point,) = client.get_metric_history(runs["probe"].info.run_id, "auroc/query_token")
    assert point.step == 4


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    def fails() -> None:
        with appearing(tmp_path / "a") as partial:
            (partial / "x").write_text("half")
            raise KeyError("killed")

    with pytest.raises(KeyError):
        fails()
    assert not (tmp_path / "a").exists()
    with appearing(tmp_path / "a") as partial:
        (partial / "x").write_text("whole")
    assert (tmp_path / "a" / "x").read_text() == "whole"
    with appearing(tmp_path / "a") as partial:  # a second worker that was slower
        (partial / "x").write_text("later")
    assert (tmp_path / "a" / "x").read_text() == "whole"


@pytest.mark.parametrize("script", ["jobs/probe.py", "tune/probe.py"])
def test_help_is_light(script):
    code = (
        "import runpy, sys; sys.argv = ['x', '--help']\n"
        f"try: runpy.run_path({str(ROOT / script)!r}, run_name='__main__')\n"
        "except SystemExit: print({'torch', 'ray', 'optuna', 'h5py'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "activations: str | null = null" in done.stdout
    assert done.stdout.splitlines()[-1] == "set()"


@pytest.mark.parametrize(
    ("argv", "match"),
    [
        (["space.lr=[0.1,0.01]"], r"space\.lr as \[lowest, highest\]"),
        (["split.valid_share=0"], "valid_share above 0"),
        (["probe.epochs=3"], "grace_epochs of at most"),
    ],
)
def test_a_sweep_that_cannot_work_is_refused(argv, match):
    with pytest.raises(ConfigError, match=match):
        parse(SweepProbeConfig, argv)
