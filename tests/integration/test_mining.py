"""Mining on Ray, end to end, on a tiny world with the reference VLM: through bad files and kills."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from sightline.config.mining import MineSettings
from sightline.config.model import ModelConfig
from sightline.config.resources import ResourcesConfig
from sightline.data.examples import read_jsonl
from sightline.data.pairs import read_pairs
from sightline.distributed.mining import Mined, Mining
from sightline.errors import DataError, ResourceError, StorageError
from sightline.records import Example
from sightline.world.dataset import write

pytestmark = pytest.mark.integration
REPO = Path(__file__).parents[2]
SETTINGS = MineSettings(batch_size=8, shard_rows=8, max_new_tokens=24, short_answer_tokens=4, samples=3)
SLOW_JUDGE = "tests.integration.slow_judge:judge"


def mining(folder: Path, *, settings: MineSettings = SETTINGS, workers: int = 2, ray: bool = True) -> Mining:
    return Mining(ModelConfig(), settings, ResourcesConfig(workers=workers), str(folder), ray=ray)


def world(folder: Path, scenes: int) -> list[Example]:
    return read_jsonl(write(folder, split="mine", scenes=scenes))


def findings(mined: Mined) -> list[tuple]:
    """All that was found, without the log-probabilities (thread counts move their last digits)."""
    columns = ["pair_id", "outcome", "chosen", "rejected", "context", "kind"]
    parts = sorted((Path(mined.folder) / "mined").glob("part-*.parquet"))
    return [tuple(r.values()) for part in parts for r in pq.read_table(part, columns=columns).to_pylist()]


def judged(data: Path) -> list[tuple[int, str]]:
    log = data / "judged.log"
    lines = log.read_text().split("\n") if log.exists() else []
    return [(int(pid), example_id) for pid, example_id in (ln.split() for ln in lines if " " in ln)]


def check_nothing_lost_or_repeated(mined: Mined, examples: list[Example], data: Path, workers: int) -> None:
    found = findings(mined)
    assert len({row[0] for row in found}) == len(found), "no finding twice"
    assert {row[0].split("#")[0] for row in found} == {e.example_id for e in examples}, "no example lost"
    # An example that was judged by two processes was redone; count the shards they lie in.
    workers_of = {e: {pid for pid, judged_e in judged(data) if judged_e == e} for _, e in judged(data)}
    parts = sorted((Path(mined.folder) / "mined").glob("part-*.parquet"))
    shard_of = {
        e: n
        for n, part in enumerate(parts)
        for e in pq.read_table(part, columns=["example_id"])["example_id"].to_pylist()
    }
    redone = {shard_of[e] for e, pids in workers_of.items() if len(pids) > 1}
    assert len(redone) <= workers


def test_end_to_end_and_equal_to_a_for_loop(ray_session, tmp_path):
    examples = world(tmp_path / "data", 6)
    mined = mining(tmp_path / "ray")(examples)
    in_loop = mining(tmp_path / "loop", ray=False)(examples)
    assert findings(mined) == findings(in_loop)
    report = json.loads((tmp_path / "ray" / "mine_report.json").read_text())
    assert report["examples"] == report["asked"] == report["with_context"] == len(examples)
    assert report["failed_rows"] == 0
    assert report["pairs"] == mined.pairs == sum(report["by_condition"].values())
    outcomes = Counter(row[1] for row in findings(mined))
    assert sum(outcomes.values()) == sum(sum(counts.values()) for counts in report["found"].values())
    contexts = {row[4] for row in findings(mined)} - {""}
    captions = {e.image_id: e.meta["caption"] for e in examples}
    assert contexts <= set(captions.values())
    if mined.pairs:
        pairs = read_pairs(mined.pairs_folder)
        assert len(pairs) == mined.pairs
        assert pairs[0].provenance["model"]["identity"]
    again = mining(tmp_path / "ray")(examples)
    assert again.report["resumed_shards"] == again.report["shards"], "a finished run does no work"
    with pytest.raises(StorageError, match=r"identity\.mining\.seed: 0 -> 1"):
        mining(tmp_path / "ray", settings=SETTINGS.model_copy(update={"seed": 1}))(examples)


def test_a_corrupt_and_a_missing_image_cost_one_row_each(ray_session, tmp_path):
    path = write(tmp_path / "data", split="mine", scenes=3)
    row = json.loads(path.read_text().split("\n")[0])
    (tmp_path / "data" / "images" / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\nhalf")
    with path.open("a") as lines:
        for name in ("bad", "gone"):
            uri = str(tmp_path / "data" / "images" / f"{name}.png")
            broken = {**row, "example_id": name, "image_id": name, "image_uri": uri, "sha256": ""}
            lines.write(json.dumps(broken) + "\n")
    examples = read_jsonl(path)
    mined = mining(tmp_path / "out")(examples)
    errors = pq.read_table(tmp_path / "out" / "mined" / "errors.parquet").to_pylist()
    assert sorted(e["row_id"] for e in errors) == ["bad", "gone"]
    assert all(e["row_id"] in e["image_uri"] and e["error"] for e in errors)
    assert mined.report["failed_rows"] == 2
    assert len({row[0].split("#")[0] for row in findings(mined)}) == len(examples) - 2


def test_killed_worker(ray_session, tmp_path):
    data = tmp_path / "data"
    examples = world(data, 10)
    settings = SETTINGS.model_copy(update={"judge": SLOW_JUDGE})
    killed: list[int] = []

    def kill_first_worker() -> None:
        while len(judged(data)) < 60:
            time.sleep(0.02)
        killed.append(judged(data)[0][0])
        os.kill(killed[0], signal.SIGKILL)

    killer = threading.Thread(target=kill_first_worker, daemon=True)
    killer.start()
    mined = mining(tmp_path / "out", settings=settings)(examples)
    killer.join(1)
    assert killed, "the run ended before its worker was killed"
    assert {pid for pid, _ in judged(data)} - set(killed), "another process went on"
    check_nothing_lost_or_repeated(mined, examples, data, workers=1)


def job(folder: Path, examples: Path, *more: str) -> list[str]:
    settings = [
        f"run.root={folder}",
        "run.name=kill",
        "dataset.type=jsonl",
        f"dataset.path={examples}",
        "resources.workers=2",
        *[f"mining.{k}={getattr(SETTINGS, k)}" for k in SETTINGS.model_fields_set],
        *more,
    ]
    return [sys.executable, str(REPO / "jobs" / "mine.py"), *settings]


def test_killed_driver_and_rerun(ray_session, tmp_path):
    data = tmp_path / "data"
    examples = world(data, 10)
    command = job(tmp_path, data / "examples.jsonl", f"mining.judge={SLOW_JUDGE}")
    environment = {**os.environ, "RAY_ADDRESS": ray_session.address}
    driver = subprocess.Popen(command, env=environment, cwd=tmp_path)
    deadline = time.monotonic() + 300
    while len(judged(data)) < 60:
        assert driver.poll() is None, "the job ended before it was killed"
        assert time.monotonic() < deadline
        time.sleep(0.05)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    before = -1
    while len(judged(data)) != before:  # its actors end with their job, a moment later
        before = len(judged(data))
        time.sleep(1.0)
    done = len(list((tmp_path / "kill" / "mined").glob("*._SUCCESS.json")))
    assert done > 0
    subprocess.run(command, env=environment, cwd=tmp_path, check=True, timeout=400)
    report = json.loads((tmp_path / "kill" / "mine_report.json").read_text())
    assert report["resumed_shards"] == done
    mined = Mined(str(tmp_path / "kill"), "", report["pairs"], report)
    check_nothing_lost_or_repeated(mined, examples, data, workers=2)


def test_bad_input_is_refused_before_work(ray_session, tmp_path):
    examples = world(tmp_path / "data", 2)
    captions_only = SETTINGS.model_copy(update={"conditions": ("caption",)})
    questions = [e for e in examples if e.kind != "caption"]
    with pytest.raises(DataError, match="mining.conditions apply to"):
        mining(tmp_path / "a", settings=captions_only)(questions)
    with pytest.raises(DataError, match="captions in the dataset"):
        mining(tmp_path / "b")([Example("e", "i", examples[0].image_uri, "q", "open", answer="a")])
    greedy = ResourcesConfig(workers=1, gpus_per_worker=64)
    with pytest.raises(ResourceError, match="GPUs"):
        Mining(ModelConfig(), SETTINGS, greedy, str(tmp_path / "c"))(examples)
    for name in "abc":
        assert not list((tmp_path / name).rglob("part-*"))
