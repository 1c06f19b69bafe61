"""How a finished shard is written: which file a part is, and how columns become one.

A format knows files and columns; it knows neither workers nor Ray. What its `write` returns
goes into the shard's `_SUCCESS` file, so a reader of many parts need not open them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from sightline.distributed.storage import Storage


@dataclass(frozen=True, slots=True)
class Kept:
    """What a worker returned for one batch, and which of its rows worked."""

    columns: Mapping[str, np.ndarray]
    """Name -> values, one a row along the first axis; without the column `error`."""
    keep_N: np.ndarray
    """True where the row worked."""

    def __len__(self) -> int:
        return int(self.keep_N.sum())


class PartFormat(Protocol):
    """Writes parts. Picklable, because Ray's actors write."""

    @property
    def suffix(self) -> str:
        """How a part's name ends, with the dot."""
        ...

    def write(self, storage: Storage, name: str, batches: Sequence[Kept]) -> dict[str, Any]:
        """Write the kept rows of all batches as one whole file.

        Returns JSON values: `bytes`, its size, and whatever else the format wants remembered.
        """
        ...


@dataclass(frozen=True, slots=True)
class ParquetParts:
    """One parquet file a part: what `ShardedRun.tables` reads."""

    suffix: str = ".parquet"

    def write(self, storage: Storage, name: str, batches: Sequence[Kept]) -> dict[str, Any]:
        tables = [
            pa.table({column: _arrow(values) for column, values in batch.columns.items()}).filter(
                pa.array(batch.keep_N)
            )
            for batch in batches
        ]
        table = pa.concat_tables(tables, promote_options="permissive")
        return {"bytes": storage.write_table(name, table)}


def _arrow(values: Any) -> pa.Array:
    """A column as Arrow, with strings and lists (object arrays) typed by their content."""
    array = np.asarray(values) if not isinstance(values, np.ndarray) else values
    return pa.array(array.tolist() if array.dtype == object or array.ndim > 1 else array)
