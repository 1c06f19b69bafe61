"""Extraction on Ray, end to end, on a tiny world with the reference VLM: through bad files and kills."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from sightline.activations.store import ActivationStore
from sightline.activations.verify import verify
from sightline.config.extract import ExtractSettings
from sightline.config.model import ModelConfig
from sightline.config.resources import ResourcesConfig
from sightline.data.examples import read_jsonl
from sightline.distributed.extraction import Extracted, Extraction
from sightline.records import Example
from sightline.world.dataset import write

pytestmark = pytest.mark.integration
REPO = Path(__file__).parents[2]
SCENES = 12
SETTINGS = ExtractSettings(
    batch_size=4, shard_rows=6, short_answer_tokens=4, judge="tests.integration.slow_judge:judge"
)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """A world of short questions only; the judge's log lies in it too."""
    folder = tmp_path_factory.mktemp("data")
    path = write(folder, split="mine", scenes=SCENES)
    short = [e for e in read_jsonl(path) if e.kind in ("yes_no", "color", "count")]
    path.write_text("".join(json.dumps(e.to_row()) + "\n" for e in short))
    return folder


@pytest.fixture(scope="module")
def by_one(ray_session, data, tmp_path_factory) -> dict[str, bytes]:
    """The parts of an undisturbed run with one worker."""
    return parts(extract(tmp_path_factory.mktemp("one"), read_jsonl(data / "examples.jsonl"), workers=1))


def extract(folder: Path, examples: list[Example], *, workers: int) -> Extracted:
    return Extraction(ModelConfig(), SETTINGS, ResourcesConfig(workers=workers), str(folder))(examples)


def parts(extracted: Extracted) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(extracted.folder).glob("*.h5")}


def judged(data: Path) -> list[tuple[int, str]]:
    """(process, example) of every judgement so far; the last line may still be in the making."""
    log = data / "judged.log"
    lines = log.read_text().split("\n")[:-1] if log.exists() else []
    return [(int(pid), example_id) for pid, example_id in (line.split() for line in lines)]


@pytest.mark.parametrize("workers", [2, 4])
def test_the_number_of_workers_changes_no_byte(ray_session, tmp_path, data, by_one, workers):
    extracted = extract(tmp_path, read_jsonl(data / "examples.jsonl"), workers=workers)
    assert parts(extracted) == by_one
    again = extract(tmp_path, read_jsonl(data / "examples.jsonl"), workers=workers)
    assert again.report["resumed_shards"] == again.report["shards"], "a finished run does no work"


def test_bad_files_cost_one_row_each(ray_session, tmp_path, data):
    examples = read_jsonl(data / "examples.jsonl")[:8]
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\nhalf")
    broken = [
        replace(examples[0], example_id=n, image_id=n, image_uri=f"{tmp_path}/images/{n}.png", sha256="")
        for n in ("bad", "gone")
    ]
    extracted = extract(tmp_path / "out", [*examples, *broken], workers=1)
    assert (extracted.rows, extracted.failed) == (8, 2)
    found = verify(extracted.folder)
    assert (found.ok, found.present, found.quarantined) == (True, 8, 2)


class Run:
    """The job in a process of its own on the session's cluster, started, killed and started again."""

    def __init__(self, folder: Path, data: Path, address: str):
        self._folder, self.data = folder, data
        self._environment = {**os.environ, "RAY_ADDRESS": address}
        settings = [f"extraction.{k}={getattr(SETTINGS, k)}" for k in SETTINGS.model_fields_set]
        self._command = [
            sys.executable,
            str(REPO / "jobs" / "extract.py"),
            f"run.root={folder}",
            "run.name=kill",
            "dataset.type=jsonl",
            f"dataset.path={data / 'examples.jsonl'}",
            "resources.workers=2",
            *settings,
        ]
        self.before = len(judged(data))
        self.driver: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.driver = subprocess.Popen(self._command, env=self._environment, cwd=self._folder)

    def log(self) -> list[tuple[int, str]]:
        return judged(self.data)[self.before :]

    def wait_for(self, judgements: int) -> None:
        assert self.driver is not None
        deadline = time.monotonic() + 300
        while len(self.log()) < judgements:
            assert self.driver.poll() is None, "the job ended before it was killed"
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def kill_worker(self) -> None:
        """The actor that judged last."""
        os.kill(self.log()[-1][0], signal.SIGKILL)

    def kill_driver(self) -> None:
        assert self.driver is not None
        self.driver.kill()
        self.driver.wait()
        seen = -1
        while len(self.log()) != seen:  # its actors end with their job, a moment later
            seen = len(self.log())
            time.sleep(1.0)

    def finish(self) -> Extracted:
        assert self.driver is not None
        assert self.driver.wait(300) == 0
        report = json.loads((self._folder / "kill" / "extract_report.json").read_text())
        return Extracted(str(self._folder / "kill" / "activations"), report["rows"], 0, report)


def test_killed_at_three_random_points_nothing_is_lost_or_repeated(ray_session, tmp_path, data, by_one):
    seed = random.randrange(10**6)
    total = len(read_jsonl(data / "examples.jsonl"))
    first, second, third = (
        random.Random(seed).randint(a, a + total // 8) for a in (2, total // 4, total // 2)
    )
    run = Run(tmp_path, data, ray_session.address)
    run.start()
    run.wait_for(first)
    run.kill_worker()
    run.wait_for(second)
    run.kill_driver()
    done = len(list((tmp_path / "kill" / "activations").glob("*._SUCCESS.json")))
    run.start()
    run.wait_for(max(third, len(run.log()) + 1))
    run.kill_worker()
    extracted = run.finish()
    told = f"killed after {first}, {second}, {third} judgements (seed {seed})"
    found = verify(extracted.folder)
    assert found.ok, (told, found.faults)
    assert (found.present, found.quarantined) == (total, 0), told
    assert parts(extracted) == by_one, f"{told}: the parts are those of an undisturbed run"
    assert extracted.report["resumed_shards"] == done, told
    # A question judged by several processes was redone; count the shards that such ones lie in,
    # once more for every further time.
    workers_of = {e: {pid for pid, judged_e in run.log() if judged_e == e} for _, e in run.log()}
    again = Counter[int]()
    for shard, part in enumerate(ActivationStore.open(extracted.folder).manifest.parts):
        ids = part_ids(extracted, part.name)
        again[shard] = max(len(workers_of[e]) for e in ids) - 1
    # Two workers: a killed one redoes a shard at most, a killed driver one of each.
    assert sum(again.values()) <= 1 + 2 + 1, told


def part_ids(extracted: Extracted, name: str) -> list[str]:
    import h5py

    with h5py.File(Path(extracted.folder) / name) as file:
        return [value.decode() for value in file["ids"][()]]
