"""jobs/probe.py on Ray: workers share the sites, and the probes are those of one process."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest

from tests.integration.probe_store import write_store

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]


def test_two_workers_train_the_probes_of_one(ray_session, tmp_path):
    store = write_store(tmp_path / "store")
    settings = [
        f"activations={store}",
        f"run.root={tmp_path}/runs",
        f"run.tracking_uri=sqlite:///{tmp_path}/mlflow.db",
        "probe.widths=[8,4]",
        "probe.epochs=3",
        "seeds=[1,2]",
        "bootstrap=20",
    ]
    for name, workers in (("one", 1), ("two", 2)):
        runpy.run_path(str(ROOT / "jobs" / "probe.py"))["main"](
            [*settings, f"run.name={name}", f"resources.workers={workers}"]
        )
    one, two = (json.loads((tmp_path / "runs" / name / "report.json").read_text()) for name in ("one", "two"))
    assert [site["site"] for site in one["sites"]] == [site["site"] for site in two["sites"]]
    for left, right in zip(one["sites"], two["sites"], strict=True):
        assert left["seeds"] == pytest.approx(right["seeds"], abs=1e-6)
