"""How rows are cut into shards, and what a folder of shards says about itself.

The cut depends on the rows and their order alone. `plan.json` states what the shards
were made of; a folder with another plan is refused. Pure but for reading and writing the
folder; knows no Ray.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from sightline.distributed.storage import Storage
from sightline.errors import DataError, StorageError

PLAN = "plan.json"


def arrange(
    rows: Sequence[Mapping[str, Any]] | pa.Table, id_column: str, group_column: str | None, shard_rows: int
) -> tuple[pa.Table, list[tuple[int, int]]]:
    """Rows in order (groups pulled together), and the [start, stop) of every shard."""
    table = rows if isinstance(rows, pa.Table) else pa.Table.from_pylist([dict(row) for row in rows])
    if len(table) == 0:
        raise DataError(expected="at least one row", got="none", hint="check the dataset and its split")
    ids = table[id_column].to_pylist()
    if len(set(ids)) < len(ids):
        twice = Counter(ids).most_common(1)[0][0]
        raise DataError(expected=f"a unique {id_column} in every row", got=f"{twice!r} more than once")
    if group_column is not None:
        first: dict[Any, int] = {}
        order = [first.setdefault(g, n) for n, g in enumerate(table[group_column].to_pylist())]
        table = table.take(np.argsort(np.asarray(order), kind="stable"))
    return table, list(cut(group_starts(table, group_column), len(table), shard_rows))


def group_starts(table: pa.Table, group_column: str | None) -> Iterable[int]:
    """Row numbers at which a cut is allowed."""
    if group_column is None:
        return range(len(table))
    groups = table[group_column].to_pylist()
    return [n for n in range(len(groups)) if n == 0 or groups[n] != groups[n - 1]]


def cut(starts: Iterable[int], total: int, size: int) -> Iterator[tuple[int, int]]:
    """Ranges of at least `size` rows, cut only at `starts`; the last may be shorter."""
    begin = 0
    for start in starts:
        if start - begin >= size:
            yield begin, start
            begin = start
    if begin < total:
        yield begin, total


def describe_plan(
    table: pa.Table,
    shard_rows: int,
    shards: int,
    id_column: str,
    worker_cls: type,
    identity: Mapping[str, Any],
) -> dict[str, Any]:
    return {
        "worker": worker_cls.__qualname__,
        "identity": json.loads(json.dumps(dict(identity), sort_keys=True, default=str)),
        "rows": len(table),
        "rows_hash": _hash_rows(table),
        "id_hash": hash_ids(table[id_column]),
        "shard_rows": shard_rows,
        "shards": shards,
    }


def agree_on_plan(storage: Storage, plan: dict[str, Any]) -> None:
    """Write the plan, or refuse a folder that holds a run of another one."""
    if not storage.exists(PLAN):
        if any(name.endswith("_SUCCESS.json") for name in storage.sizes()):
            raise StorageError(
                expected=f"{storage.uri} to be empty or to say in {PLAN} what it holds",
                got="finished shards without that file",
                hint="choose another run.name, or delete that folder to start afresh",
            )
        storage.write_json(PLAN, plan)
        return
    before, now = _flat(storage.read_json(PLAN)), _flat(plan)
    changed = [
        f"{key}: {before.get(key)!r} -> {now.get(key)!r}"
        for key in sorted(before | now)
        if before.get(key) != now.get(key)
    ]
    if changed:
        raise StorageError(
            expected=f"{storage.uri} to be empty or to hold this same run",
            got="another one (" + "; ".join(changed[:6]) + ")",
            hint="choose another run.name, or delete that folder to start afresh",
        )


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {prefix: value}
    return {k: v for key, x in value.items() for k, v in _flat(x, f"{prefix}.{key}".strip(".")).items()}


def finished(storage: Storage, shards: int, suffix: str = ".parquet") -> set[int]:
    """Shards whose success file agrees with the part beside it; a damaged one is redone."""
    sizes = storage.sizes()
    done = set()
    for shard in range(shards):
        if success_name(shard) not in sizes:
            continue
        if storage.read_json(success_name(shard))["bytes"] == sizes.get(part_name(shard, suffix)):
            done.add(shard)
        else:
            storage.delete(success_name(shard))
    return done


def part_name(shard: int, suffix: str = ".parquet") -> str:
    return f"part-{shard:06d}{suffix}"


def success_name(shard: int) -> str:
    return f"part-{shard:06d}._SUCCESS.json"


def hash_ids(ids: pa.ChunkedArray) -> str:
    digest = hashlib.sha256()
    for value in ids.to_pylist():
        digest.update(f"{value}\n".encode())
    return digest.hexdigest()


def _hash_rows(table: pa.Table) -> str:
    digest = hashlib.sha256()
    for row in table.to_pylist():
        digest.update(json.dumps(row, sort_keys=True, default=str).encode())
    return digest.hexdigest()
