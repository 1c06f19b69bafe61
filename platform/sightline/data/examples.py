"""Datasets on disk: JSONL or parquet files of `Example` rows, read and checked.

What is wrong with the file as a whole (no rows, a missing column, an id given twice)
is an error that names the row. An image that is missing or cannot be read is not: it
costs its own row later, where images are opened.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

from sightline.errors import DataError
from sightline.records import Example, Kind

_REQUIRED = ("example_id", "image_uri", "question", "kind")
_FIELDS = tuple(field.name for field in dataclasses.fields(Example))
_KINDS = get_args(Kind)


def read_jsonl(
    path: str | Path, *, image_root: str | Path | None = None, limit: int | None = None
) -> list[Example]:
    """One JSON object a line, with the fields of `Example`; empty lines are skipped.

    Relative image paths start from `image_root` (default: the file's own folder) and
    come back absolute. Raises DataError naming the line.
    """
    path = Path(path).absolute()
    return from_rows(json_lines(path), path, image_root or path.parent, limit)


def read_parquet(
    path: str | Path, *, image_root: str | Path | None = None, limit: int | None = None
) -> list[Example]:
    """A parquet file, or a folder whose `*.parquet` files are read in name order.

    As `read_jsonl`; rows are numbered from 1 through all files.
    """
    path = Path(path).absolute()
    folder = path if path.is_dir() else path.parent
    return from_rows(parquet_rows(path), path, image_root or folder, limit)


def check_images(examples: Sequence[Example]) -> list[Example]:
    """The examples whose local image file does not exist; each will cost its own row.

    Raises DataError when that is every one of them: then the paths are wrong, not the files.
    """
    exists: dict[str, bool] = {}
    for example in examples:
        uri = example.image_uri
        if uri not in exists:
            exists[uri] = "://" in uri or os.path.isfile(uri)
    missing = [example for example in examples if not exists[example.image_uri]]
    if examples and len(missing) == len(examples):
        raise DataError(
            expected="image files where the dataset says",
            got=f"none of {len(exists)} found, the first being {examples[0].image_uri}",
            hint="set dataset.image_root to the folder that relative paths start from",
        )
    return missing


def json_lines(path: Path) -> Iterator[tuple[int, Any]]:
    """(line number, value) of a file with one JSON value a line; empty lines are skipped."""
    require_file(path)
    number = 0
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield number, json.loads(line)
    except ValueError as error:  # not JSON, or not even UTF-8
        raise wrong(path, max(1, number), "one JSON object a line", str(error)) from error


def parquet_rows(path: Path) -> Iterator[tuple[int, Any]]:
    """(row number, row) of a parquet file or folder of them; a row lacks the columns that are null."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    number = 0
    for file in files:
        require_file(file)
        try:
            parquet = pq.ParquetFile(file)
        except pa.ArrowInvalid as error:
            raise DataError(expected=f"a parquet file at {file}", got=str(error)) from error
        for batch in parquet.iter_batches():
            for row in batch.to_pylist():
                number += 1
                yield number, {name: value for name, value in row.items() if value is not None}


def require_file(path: Path) -> None:
    """Raises DataError when there is no such file."""
    if not path.is_file():
        raise DataError(expected=f"a dataset file at {path}", got="none", hint="check dataset.path")


def from_rows(
    rows: Iterable[tuple[int, Any]], path: Path, image_root: str | Path, limit: int | None = None
) -> list[Example]:
    """Numbered rows with the fields of `Example`, checked. Raises DataError naming the row of `path`."""
    image_root = Path(image_root)
    examples: list[Example] = []
    first_seen: dict[str, int] = {}
    for number, row in rows:
        if limit is not None and len(examples) >= limit:
            break
        example = _example(row, path, number, image_root)
        if example.example_id in first_seen:
            twice = f"{example.example_id!r} again (first in row {first_seen[example.example_id]})"
            raise wrong(path, number, "an example_id used once", twice)
        first_seen[example.example_id] = number
        examples.append(example)
    if not examples:
        raise DataError(expected=f"at least one example in {path}", got="none")
    return examples


def _example(row: Any, path: Path, number: int, image_root: Path) -> Example:
    if not isinstance(row, dict):
        raise wrong(path, number, "an object with the fields of Example", type(row).__name__)
    if missing := [name for name in _REQUIRED if not row.get(name)]:
        raise wrong(path, number, f"a value for {', '.join(_REQUIRED)}", f"none for {', '.join(missing)}")
    if unknown := sorted(set(row) - set(_FIELDS)):
        raise wrong(path, number, f"fields among {', '.join(_FIELDS)}", f"{', '.join(unknown)}", _EXTRA)
    if row["kind"] not in _KINDS:
        raise wrong(path, number, f"a kind among {', '.join(_KINDS)}", repr(row["kind"]))
    uri = row["image_uri"]
    if "://" not in uri:
        uri = os.path.normpath(image_root.absolute() / uri)
    values = {"image_id": row["image_uri"], **row, "image_uri": uri}
    try:
        example = Example.from_row(values)
    except json.JSONDecodeError as error:
        raise wrong(path, number, "`objects` a list and `meta` an object", str(error)) from error
    for name in ("example_id", "image_id", "question", "answer", "context", "sha256", "split", "source"):
        if not isinstance(getattr(example, name), str):
            raise wrong(path, number, f"text in `{name}`", repr(getattr(example, name)))
    if not isinstance(example.objects, tuple) or not isinstance(example.meta, dict):
        raise wrong(path, number, "`objects` a list and `meta` an object", f"{example.objects!r}")
    return example


_EXTRA = "put what else you know about a row under `meta`"


def wrong(path: Path, number: int, expected: str, got: str, hint: str = "") -> DataError:
    """The error that names a row of a file."""
    return DataError(expected=f"{expected} (row {number} of {path})", got=got, hint=hint)
