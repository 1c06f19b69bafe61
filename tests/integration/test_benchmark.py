"""jobs/benchmark.py on Ray: two rows on the world, killed and resumed, scored again to the last digit."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest

from sightline.errors import ConfigError, StorageError
from tests.unit.tiny import fresh_vlm

pytestmark = pytest.mark.integration
ROOT = Path(__file__).parents[2]


def benchmark(*arguments: str) -> None:
    """Run jobs/benchmark.py in this process, on the tests' Ray."""
    runpy.run_path(str(ROOT / "jobs" / "benchmark.py"))["main"](list(arguments))


@pytest.fixture(scope="module")
def settings(tmp_path_factory) -> list[str]:
    folder = tmp_path_factory.mktemp("benchmark")
    fresh_vlm("smolvlm").save(folder / "model")
    return [
        f"run.root={folder}",
        "run.name=two",
        f"run.tracking_uri=sqlite:///{folder}/mlflow.db",
        f"model.source={folder}/model",
        "rows=[{name: spin, mitigations: ['spin:k=0.5,alpha=0.0']}]",
        "benchmarks.world.scenes=4",
        "max_new_tokens=4",
        "short_answer_tokens=2",
        "shard_rows=30",
        "bootstrap=20",
    ]


def folder_of(settings: list[str]) -> Path:
    return Path(settings[0].partition("=")[2]) / "two"


@pytest.fixture(scope="module")
def finished(ray_session, settings) -> Path:
    benchmark(*settings)
    return folder_of(settings)


def answers(folder: Path, row: str) -> dict[str, str]:
    lines = (folder / "predictions" / "model" / row / "world.jsonl").read_text().splitlines()
    return {row["example_id"]: row["answer"] for row in map(json.loads, lines)}


def test_two_rows_are_answered_and_compared(finished):
    report = json.loads((finished / "report.json").read_text())
    assert {c["row"] for c in report["comparisons"]} == {"spin"}
    assert not report["refused"]
    assert all(cost["ms_per_token"] > 0 and cost["passes_per_token"] > 0 for cost in report["costs"])
    assert answers(finished, "greedy").keys() == answers(finished, "spin").keys()
    assert (finished / "report.html").stat().st_size > 10_000


def test_a_lost_shard_is_answered_again_and_nothing_else(ray_session, finished, settings):
    before = answers(finished, "spin")
    shards = sorted((finished / "answers" / "model" / "spin" / "world").glob("part-*.parquet"))
    assert len(shards) > 1
    shards[0].unlink()
    kept = {path.name: path.stat().st_mtime_ns for path in shards[1:]}
    benchmark(*settings)
    assert answers(finished, "spin") == before
    assert {path.name: path.stat().st_mtime_ns for path in shards[1:]} == kept


def test_scoring_alone_gives_the_same_report(finished, settings):
    first = (finished / "report.json").read_bytes()
    (finished / "report.json").unlink()
    benchmark(*settings, "--score-only")
    assert (finished / "report.json").read_bytes() == first


def test_damaged_predictions_are_counted_and_named(finished, settings):
    path = finished / "predictions" / "model" / "spin" / "world.jsonl"
    whole = path.read_text()
    lines = whole.splitlines(keepends=True)
    foreign = lines[0].replace('"example_id": "', '"example_id": "elsewhere-')
    try:
        path.write_text("".join([*lines[1:], lines[1], foreign]))
        benchmark(*settings, "--score-only")
    finally:
        path.write_text(whole)
    report = json.loads((finished / "report.json").read_text())
    [account] = [a for a in report["accounts"] if a["row"] == "spin"]
    assert account["counts"]["missing"] == account["counts"]["doubled"] == account["counts"]["foreign"] == 1
    assert account["named"]["missing"] == [json.loads(lines[0])["example_id"]]


def test_a_row_that_the_model_refuses_stops_before_any_answer(ray_session, settings, tmp_path):
    rows = "rows=[{name: deep, mitigations: ['spin:layers=99']}]"
    with pytest.raises(ConfigError, match="deep"):
        benchmark(*settings, rows, f"run.root={tmp_path}")
    assert not (tmp_path / "two" / "answers").exists()


def test_other_settings_in_the_same_folder_are_refused(ray_session, finished, settings):
    with pytest.raises(StorageError, match="max_new_tokens"):
        benchmark(*settings, "max_new_tokens=5")


def test_scoring_without_answers_says_so(settings, tmp_path):
    with pytest.raises(StorageError, match="score-only"):
        benchmark(*settings, "--score-only", f"run.root={tmp_path}")
