"""The run folder: whole files, strict JSON, clear refusals."""

import json
import math
import sys

import numpy as np
import pytest

from sightline.config.dpo import DpoConfig
from sightline.errors import StorageError
from sightline.evaluation.run_folder import RunFolder, plain, start_run, write_json


def test_a_run_says_what_was_asked_and_how(tmp_path):
    folder = RunFolder.at(tmp_path / "runs" / "demo")
    manifest = start_run(folder, name="demo", config=DpoConfig(), seed=7)
    assert manifest == folder.read_json("run.json")
    assert manifest["starts"] == 1
    assert manifest["versions"]["torch"] != "absent"
    assert manifest["hardware"]["logical_cpus"] >= 1
    assert manifest["command"]
    assert folder.read_json("config.json")["evaluation"]["parser"] == "strict"
    again = start_run(folder, name="demo", config=DpoConfig(), seed=7)
    assert again["starts"] == 2
    assert again["started"] == manifest["started"]


def test_json_is_strict(tmp_path):
    folder = RunFolder.at(tmp_path)
    write_json(folder, "x.json", {"a": math.nan, "b": np.float64(0.5), "c": (np.int64(3), math.inf), 4: "é"})
    text = (tmp_path / "x.json").read_text(encoding="utf-8")
    assert json.loads(text, parse_constant=pytest.fail) == {"a": None, "b": 0.5, "c": [3, None], "4": "é"}
    with pytest.raises(StorageError, match="object"):
        plain(object())


def test_no_half_files(tmp_path):
    folder = RunFolder.at(tmp_path)
    folder.write_bytes("figures/a.png", b"old")
    with pytest.raises(TypeError):
        folder.write_bytes("figures/a.png", "not bytes")
    assert (tmp_path / "figures/a.png").read_bytes() == b"old"
    assert [p.name for p in (tmp_path / "figures").iterdir()] == ["a.png"]


def test_unwritable_folders_are_refused(tmp_path):
    (tmp_path / "file").write_text("in the way")
    for bad in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(StorageError, match=r"run\.root"):
            RunFolder.at(bad)
    with pytest.raises(StorageError, match="local"):
        RunFolder.at("s3://bucket/run")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc is Linux's")
def test_a_folder_no_one_may_write_is_refused():
    with pytest.raises(StorageError, match="can be written"):
        RunFolder.at("/proc/sightline")


def test_broken_json_is_named(tmp_path):
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(StorageError, match=r"run\.json"):
        RunFolder.at(tmp_path).read_json("run.json")
