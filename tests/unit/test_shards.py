"""Sharded runs in a plain for-loop: atomic, resumable, and exact about failed rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sightline.distributed.shards import ERRORS, run_sharded
from sightline.errors import DataError, StorageError


class Doubler:
    """Doubles `value`; refuses negative ones by row; can be told to die after n calls."""

    def __init__(self, config: dict):
        self.config = config
        self.calls = 0

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        self.calls += 1
        if self.calls > self.config.get("die_after", 10**9):
            raise KeyboardInterrupt
        if "log" in self.config:
            with Path(self.config["log"]).open("a") as log:
                log.write(",".join(batch["row_id"]) + "\n")
        value = batch["value"]
        error = np.where(value < 0, "negative", "")
        return {"row_id": batch["row_id"], "double": value * 2, "error": error}


class Loser(Doubler):
    def __call__(self, batch):
        return {name: column[1:] for name, column in super().__call__(batch).items()}


def rows(n: int) -> list[dict]:
    return [{"row_id": f"r{i}", "image_uri": f"/x/{i}.png", "value": i} for i in range(n)]


def run(data, out, config=None, worker=Doubler, **options):
    return run_sharded(data, worker, config or {}, out, shard_rows=4, batch_size=2, ray=False, **options)


def test_every_row_once_in_order(tmp_path):
    result = run(rows(11), tmp_path)
    table = result.table()
    assert table["row_id"].to_pylist() == [f"r{i}" for i in range(11)]
    assert table["double"].to_pylist() == [2 * i for i in range(11)]
    assert (result.rows, result.errors, result.shards, result.resumed) == (11, 0, 3, 0)


def test_failed_row_costs_one_row_and_is_named(tmp_path):
    data = rows(8)
    data[5]["value"] = -1
    result = run(data, tmp_path)
    assert result.rows == 7
    assert result.error_rows() == [{"row_id": "r5", "image_uri": "/x/5.png", "error": "negative"}]
    assert (tmp_path / ERRORS).exists()


def test_interrupted_run_resumes_without_redoing_finished_shards(tmp_path):
    log = tmp_path / "log"
    with pytest.raises(KeyboardInterrupt):
        run(rows(12), tmp_path / "out", {"log": log, "die_after": 3})
    result = run(rows(12), tmp_path / "out", {"log": log})
    seen = log.read_text().split()
    assert result.resumed == 1
    assert result.table()["row_id"].to_pylist() == [f"r{i}" for i in range(12)]
    assert sorted(set(seen), key=seen.index) == [f"r{i},r{i + 1}" for i in range(0, 12, 2)]
    assert len(seen) == 7, "only the first batch of the interrupted shard is done twice"


def test_finished_run_is_not_redone(tmp_path):
    log = tmp_path / "log"
    run(rows(5), tmp_path / "out", {"log": log})
    before = log.read_text()
    assert run(rows(5), tmp_path / "out", {"log": log}).resumed == 2
    assert log.read_text() == before


def test_damaged_part_is_redone(tmp_path):
    run(rows(8), tmp_path)
    (tmp_path / "part-000001.parquet").write_bytes(b"half a file")
    result = run(rows(8), tmp_path)
    assert result.resumed == 1
    assert result.table()["double"].to_pylist() == [2 * i for i in range(8)]


def test_part_without_success_is_redone(tmp_path):
    run(rows(8), tmp_path)
    (tmp_path / "part-000000._SUCCESS.json").unlink()
    assert run(rows(8), tmp_path).resumed == 1


def test_other_config_or_rows_are_refused_by_name(tmp_path):
    run(rows(4), tmp_path, identity={"model": {"hash": "a"}})
    with pytest.raises(StorageError, match=r"identity\.model\.hash: 'a' -> 'b'"):
        run(rows(4), tmp_path, identity={"model": {"hash": "b"}})
    with pytest.raises(StorageError, match="rows: 4 -> 5"):
        run(rows(5), tmp_path, identity={"model": {"hash": "a"}})


def test_shards_of_unknown_origin_are_refused(tmp_path):
    run(rows(4), tmp_path)
    (tmp_path / "plan.json").unlink()
    with pytest.raises(StorageError, match="without that file"):
        run(rows(4), tmp_path)


def test_groups_stay_in_one_batch(tmp_path):
    data = rows(9)
    for row, group in zip(data, "abcabcabc", strict=True):
        row["image_id"] = group
    log = tmp_path / "log"
    run(data, tmp_path / "out", {"log": log}, group_column="image_id")
    assert log.read_text().split() == ["r0,r3,r6", "r1,r4,r7", "r2,r5,r8"]


def test_worker_that_loses_rows_is_refused(tmp_path):
    with pytest.raises(DataError, match="1 missing"):
        run(rows(4), tmp_path, worker=Loser)


def test_bad_input_is_refused_before_work(tmp_path):
    with pytest.raises(DataError, match="at least one row"):
        run([], tmp_path)
    with pytest.raises(DataError, match="'r1' more than once"):
        run([*rows(3), rows(2)[1]], tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="can be written"):
        run(rows(1), tmp_path / "file" / "out")
