"""Run a worker over many rows in shards that survive any kill.

The rows are cut into deterministic shards. A Ray actor holds the worker (and its
model) and is handed shard after shard; it commits each by itself: a part (parquet, or what
`parts` says), renamed into place, then a `_SUCCESS` file with row count and id hash. A run that was
killed and started again does the shards that lack one, so it loses nothing, repeats
nothing, and redoes at most the shard that each worker was busy with. Ray Data
schedules; only shard numbers and counts pass through the driver, never pixels.

`ray=False` runs the same code in a plain for-loop.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sightline.distributed.parts import Kept, ParquetParts, PartFormat
from sightline.distributed.progress import Progress
from sightline.distributed.shard_plan import (
    agree_on_plan,
    arrange,
    cut,
    describe_plan,
    finished,
    group_starts,
    hash_ids,
    part_name,
    success_name,
)
from sightline.distributed.storage import Storage
from sightline.errors import DataError, SightlineError

MANIFEST = "manifest.parquet"
ERRORS = "errors.parquet"
_ERRORS_SCHEMA = pa.schema([("row_id", pa.string()), ("image_uri", pa.string()), ("error", pa.string())])


class Worker(Protocol):
    """`__init__(config)` loads; the call maps columns to columns.

    Every input row's id must come back at least once. A row that failed has a
    non-empty text in the column `error`; it is listed in `errors.parquet` and its
    other columns are ignored.
    """

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]: ...


@dataclass(frozen=True, slots=True)
class ShardedRun:
    """A finished run. `resumed` shards were found done; `errors` rows failed."""

    storage: Storage
    parts: tuple[str, ...]
    rows: int
    errors: int
    shards: int
    resumed: int
    elapsed_s: float

    def tables(self, columns: list[str] | None = None) -> Iterator[pa.Table]:
        """The parts (of parquet), one table at a time, in the order of the input."""
        for part in self.parts:
            yield self.storage.read_table(part, columns)

    def table(self, columns: list[str] | None = None) -> pa.Table:
        return pa.concat_tables(self.tables(columns), promote_options="permissive")

    def successes(self) -> list[dict[str, Any]]:
        """What each shard's `_SUCCESS` file says, in the order of the parts."""
        return [self.storage.read_json(success_name(shard)) for shard in range(self.shards)]

    def error_rows(self) -> list[dict[str, str]]:
        return self.storage.read_table(ERRORS).to_pylist()


def run_sharded(
    rows: Sequence[Mapping[str, Any]] | pa.Table,
    worker_cls: type,
    worker_config: Any,
    out_dir: str | Any,
    *,
    shard_rows: int = 256,
    batch_size: int = 32,
    workers: int = 1,
    cpus_per_worker: float = 1.0,
    gpus_per_worker: float = 0.0,
    id_column: str = "row_id",
    group_column: str | None = None,
    identity: Mapping[str, Any] | None = None,
    parts: PartFormat | None = None,
    ray: bool = True,
    describe: str = "",
) -> ShardedRun:
    """Map `worker_cls(worker_config)` over `rows` into parts in `out_dir`.

    `batch_size` rows at a time reach the worker; rows that share `group_column` stay
    in one batch and one shard (so groups may exceed both sizes). `identity` is what
    the output depends on (model hash, settings): a folder that holds a run of another
    identity, or over other rows, is refused with `StorageError`. Batch size, workers
    and resources are no part of it. `parts` is what a part is (default: parquet).
    `describe` labels the progress line; "" hides it.
    """
    started = time.monotonic()
    storage, parts = Storage.at(out_dir), parts or ParquetParts()
    table, bounds = arrange(rows, id_column, group_column, shard_rows)
    agree_on_plan(
        storage, describe_plan(table, shard_rows, len(bounds), id_column, worker_cls, identity or {})
    )
    done = finished(storage, len(bounds), parts.suffix)
    pending = [i for i in range(len(bounds)) if i not in done]
    if pending:
        # Input rows on shared storage, one row group a shard, so that actors read only theirs.
        if not storage.exists(MANIFEST):
            storage.write_row_groups(MANIFEST, (table[a:b] for a, b in bounds), table.schema)
        arguments = (worker_cls, worker_config, storage, batch_size, id_column, group_column, parts)
        if ray:
            summaries = _with_ray(arguments, pending, workers, cpus_per_worker, gpus_per_worker)
        else:
            summaries = _in_loop(arguments, pending)
        lengths = [stop - start for start, stop in bounds]
        _follow(summaries, total=len(table), done=sum(lengths[i] for i in done), describe=describe)
    return _close(storage, len(bounds), parts.suffix, resumed=len(done), started=started)


class ShardRunner:
    """Holds one loaded worker and commits shards with it. This is what Ray's actors are."""

    def __init__(
        self,
        worker_cls: type,
        worker_config: Any,
        storage: Storage,
        batch_size: int,
        id_column: str,
        group_column: str | None,
        parts: PartFormat,
    ):
        self._worker_cls, self._worker_config = worker_cls, worker_config
        self._storage = storage
        self._batch_size = batch_size
        self._id_column = id_column
        self._group_column = group_column
        self._parts = parts

    # Both are opened with the first shard, not in `__init__`: an error there would reach the
    # caller as "the actor died", without its type, after three more tries to load the model.
    @cached_property
    def _worker(self) -> Worker:
        return self._worker_cls(self._worker_config)

    @cached_property
    def _manifest(self) -> pq.ParquetFile:
        return self._storage.open_parquet(MANIFEST)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        counts = [self.commit(int(shard)) for shard in batch["shard"]]
        return {"rows": np.asarray(counts, dtype=np.int64)}

    def commit(self, shard: int) -> int:
        """Work through one shard and make it durable; returns its number of input rows.

        A shard found done (its worker died just after committing) is left alone.
        """
        inputs = self._manifest.read_row_group(shard)
        if not self._storage.exists(success_name(shard)):
            outputs, errors = self._work(inputs)
            written = self._parts.write(self._storage, part_name(shard, self._parts.suffix), outputs)
            self._storage.write_json(
                success_name(shard),
                {
                    "rows_in": len(inputs),
                    "rows_out": sum(len(batch) for batch in outputs),
                    "id_hash": hash_ids(inputs[self._id_column]),
                    "errors": errors,
                    **written,
                },
            )
        return len(inputs)

    def _work(self, inputs: pa.Table) -> tuple[list[Kept], list[dict[str, str]]]:
        kept, errors = [], []
        for start, stop in cut(group_starts(inputs, self._group_column), len(inputs), self._batch_size):
            batch = {name: inputs[name][start:stop].to_numpy() for name in inputs.column_names}
            good, bad = self._split(batch, self._worker(dict(batch)))
            kept.append(good)
            errors += bad
        return kept, errors

    def _split(
        self, batch: dict[str, np.ndarray], result: dict[str, np.ndarray]
    ) -> tuple[Kept, list[dict[str, str]]]:
        """The rows that worked, and a record for each that did not."""
        ids = [str(i) for i in result[self._id_column]]
        asked = {str(i): n for n, i in enumerate(batch[self._id_column])}
        if set(ids) != set(asked):
            raise DataError(
                expected=f"{type(self._worker).__name__} to return every row id it was given and no other",
                got=f"{len(set(asked) - set(ids))} missing, {len(set(ids) - set(asked))} unknown",
                hint="report failed rows in the column `error` instead of dropping them",
            )
        texts = [str(e or "") for e in result["error"]] if "error" in result else [""] * len(ids)
        uris = batch.get("image_uri", np.full(len(asked), ""))
        failed = {i: text for i, text in zip(ids, texts, strict=True) if text}
        errors = [{"row_id": i, "image_uri": str(uris[asked[i]]), "error": t} for i, t in failed.items()]
        columns = {name: values for name, values in result.items() if name != "error"}
        return Kept(columns, np.asarray([i not in failed for i in ids], dtype=bool)), errors


# --- execution --------------------------------------------------------------------------


def _in_loop(arguments: tuple[Any, ...], pending: list[int]) -> Iterator[int]:
    runner = ShardRunner(*arguments)
    for shard in pending:
        yield runner.commit(shard)


def _with_ray(
    arguments: tuple[Any, ...], pending: list[int], workers: int, cpus: float, gpus: float
) -> Iterator[int]:
    """One Ray Data pipeline over all pending shards; yields input rows per finished shard."""
    import ray.data
    from ray.exceptions import RayTaskError

    from sightline.distributed.session import connect

    connect(workers=workers, cpus_per_worker=cpus, gpus_per_worker=gpus)
    size = min(workers, len(pending))
    # One row and one block a shard: blocks are what Ray Data schedules and retries.
    shards = ray.data.from_items([{"shard": s} for s in pending], override_num_blocks=len(pending))
    committed = shards.map_batches(
        ShardRunner,
        fn_constructor_args=arguments,
        batch_size=1,
        batch_format="numpy",
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=size, initial_size=size),
        num_cpus=cpus,
        num_gpus=gpus,
    )
    try:
        for row in committed.iter_rows():
            yield int(row["rows"])
    except RayTaskError as error:
        # The worker's own error, so that the user reads the sentence that was written for him.
        if isinstance(error.cause, SightlineError):
            raise error.cause from error
        raise


def _follow(summaries: Iterator[int], *, total: int, done: int, describe: str) -> None:
    """Consume the run, saying done of total, rate and time left: a bar, or lines in a log file."""
    from tqdm import tqdm

    bar = tqdm(total=total, initial=done, desc=describe, unit="row", disable=not _on_terminal(describe))
    lines = Progress(describe, total=total, unit="row", done=done)
    with bar:
        for rows in summaries:
            done += rows
            bar.update(rows)
            if describe and not _on_terminal(describe):
                lines.update(done)


def _on_terminal(describe: str) -> bool:
    return bool(describe) and sys.stderr.isatty()


def _close(storage: Storage, shards: int, suffix: str, *, resumed: int, started: float) -> ShardedRun:
    """Check that every shard is there, and gather the failed rows into one file."""
    successes = [storage.read_json(success_name(shard)) for shard in range(shards)]
    errors = [row for success in successes for row in success["errors"]]
    storage.write_table(ERRORS, pa.Table.from_pylist(errors, schema=_ERRORS_SCHEMA))
    storage.clear_temporary()
    return ShardedRun(
        storage=storage,
        parts=tuple(part_name(shard, suffix) for shard in range(shards)),
        rows=sum(success["rows_out"] for success in successes),
        errors=len(errors),
        shards=shards,
        resumed=resumed,
        elapsed_s=time.monotonic() - started,
    )
