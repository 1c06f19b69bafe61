"""jobs/directions.py on Ray, end to end, on a tiny world with the reference VLM."""

from __future__ import annotations

import json
import runpy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch

from sightline.config.directions import DeriveSettings, DirectionsConfig, WorldPairs
from sightline.config.resources import ResourcesConfig
from sightline.distributed.directions import Derivation, load_pairs
from sightline.errors import DataError, StorageError
from sightline.interventions.directions import Directions
from sightline.models.vlm import Vlm

pytestmark = pytest.mark.integration

SCRIPT = Path(__file__).parents[2] / "jobs" / "directions.py"
SETTINGS = DeriveSettings(trials=3, shard_rows=3, batch_size=4)
CONFIG = DirectionsConfig(pairs=WorldPairs(scenes=8), derive=SETTINGS)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return load_pairs(CONFIG.pairs, scratch=str(tmp_path_factory.mktemp("data")))


def numbers(folder: Path) -> dict[str, np.ndarray]:
    return safetensors.numpy.load((folder / "directions" / "directions.safetensors").read_bytes())


def test_the_number_of_workers_changes_nothing_and_a_finished_run_is_read(ray_session, tmp_path, pairs):
    Derivation(CONFIG, str(tmp_path / "loop"), ray=False)(pairs)
    for workers in (1, 2):
        config = CONFIG.model_copy(update={"resources": ResourcesConfig(workers=workers)})
        folder = tmp_path / str(workers)
        derived = Derivation(config, str(folder))(pairs)
        for name, expected in numbers(tmp_path / "loop").items():
            np.testing.assert_allclose(numbers(folder)[name], expected, atol=1e-5, err_msg=name)
    (folder / "visual" / "part-000001.safetensors").write_bytes(b"torn")
    again = Derivation(config, str(folder))(pairs)
    assert again.report["kinds"]["text"]["resumed_shards"] == 3
    assert again.report["kinds"]["visual"]["resumed_shards"] == 2, "the torn shard alone is redone"
    np.testing.assert_array_equal(numbers(folder)["visual_LPD"], derived.directions.visual_LPD)
    other = CONFIG.model_copy(update={"derive": SETTINGS.model_copy(update={"trials": 4})})
    with pytest.raises(StorageError, match="trials: 3 -> 4"):
        Derivation(other, str(folder), ray=False)(pairs)


def test_the_job_writes_what_steering_takes(ray_session, tmp_path):
    script = runpy.run_path(str(SCRIPT))["main"]
    saved = tmp_path / "packaged"
    script(
        [
            f"run.root={tmp_path}/runs",
            f"run.tracking_uri=sqlite:///{tmp_path}/mlflow.db",
            "pairs.scenes=6",
            "derive.trials=2",
            "derive.rank=2",
            f"save_to={saved}",
        ]
    )
    folder = tmp_path / "runs" / "directions"
    report = json.loads((folder / "report.json").read_text())
    assert report["kinds"]["text"]["differences"] == 6
    for facts in report["kinds"].values():
        assert all(0 <= value <= 1 for value in facts["explained"] + facts["shared"])
    assert (folder / "directions.png").read_bytes().startswith(b"\x89PNG")
    vlm = Vlm.load()
    directions = Directions.load(folder / "directions")
    assert directions.text_of(vlm).shape[0] == vlm.num_layers
    assert directions.visual_of(vlm).shape[1] == 64, "one for each of 8 x 8 patches"
    assert directions.provenance["derive"]["rank"] == 2
    for kind in ("text", "visual"):
        alone = Directions.load(saved / kind)
        assert alone.kind == kind
        for name, tensor in alone.tensors().items():
            assert torch.equal(tensor, directions.tensors()[name])


def test_bad_images_cost_their_own_rows(tmp_path, pairs):
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"\x89PNG\r\n\x1a\nhalf")
    broken = [*pairs[:5], replace(pairs[5], image_uri=str(bad))]
    derived = Derivation(CONFIG, str(tmp_path / "run"), ray=False)(broken)
    assert {k: (f["differences"], f["failed"]) for k, f in derived.report["kinds"].items()} == {
        "text": (5, 1),
        "visual": (5, 1),
    }
    with pytest.raises(DataError, match=r"1 failures.*bad\.png"):
        Derivation(CONFIG, str(tmp_path / "none"), ray=False)(broken[5:])
