"""Somebody's own table of questions -> examples: which column is what, and labels.

The table is JSONL, CSV or parquet (or the rows of tar shards, see `webdataset`). A mapping
names the columns; what it does not name is kept in `meta`. A label (1 = hallucinated) goes to
`meta["label"]`, where extraction looks for it.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from sightline.data.examples import from_rows, json_lines, parquet_rows, require_file, wrong
from sightline.errors import DataError
from sightline.records import Example

Form = Literal["jsonl", "csv", "parquet"]
FIELDS = tuple(field.name for field in dataclasses.fields(Example))
LABEL = "label"
_TEXT_FIELDS = frozenset(FIELDS) - {"objects", "meta"}
_LABELS = {"1": 1.0, "1.0": 1.0, "true": 1.0, "yes": 1.0, "0": 0.0, "0.0": 0.0, "false": 0.0, "no": 0.0}
_NO_LABEL = ("", "nan", "none", "null")
_YES_NO = re.compile(
    r"\W*(?:is|are|was|were|do|does|did|has|have|had|can|could|will|would|should)\b", re.IGNORECASE
)


def read_table(
    path: str | Path,
    *,
    form: Form,
    columns: Mapping[str, str] | None = None,
    kind: str | None = None,
    source: str = "",
    image_root: str | Path | None = None,
    limit: int | None = None,
) -> list[Example]:
    """Examples of a JSONL, CSV or parquet file (or a folder of parquet files).

    `columns` maps a field of `Example`, or "label", to a column; `kind` and `source` are for
    rows that have none. Relative image paths start from `image_root` (default: the file's
    folder). Raises DataError naming the row or the missing column.
    """
    path = Path(path).absolute()
    rows = {"jsonl": json_lines, "csv": csv_rows, "parquet": parquet_rows}[form](path)
    mapped = map_columns(rows, path, columns=columns or {}, kind=kind, source=source)
    return from_rows(mapped, path, image_root or (path if path.is_dir() else path.parent), limit)


def csv_rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """(row number, row) under the header line; an empty cell is "". Raises DataError."""
    require_file(path)
    number = 0
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.DictReader(lines, strict=True)
            for number, row in enumerate(reader, start=1):
                if None in row:
                    raise wrong(path, number, f"{len(reader.fieldnames or ())} cells", "more", _QUOTES)
                yield number, {name: value for name, value in row.items() if value is not None}
    except (csv.Error, UnicodeDecodeError) as error:
        raise wrong(path, number + 1, "comma-separated values in UTF-8", str(error)) from error


def map_columns(
    rows: Iterable[tuple[int, Any]],
    path: Path,
    *,
    columns: Mapping[str, str],
    kind: str | None = None,
    source: str = "",
) -> Iterator[tuple[int, Any]]:
    """Rows with the fields of `Example`. Without `columns`, only absent kinds and sources are added.

    Raises DataError when no row has a column that the mapping names.
    """
    unseen = set(columns.values())
    seen: dict[str, None] = {}
    number = 0
    for number, row in rows:
        if not isinstance(row, dict):
            yield number, row  # refused, with its number, where examples are checked
            continue
        unseen -= row.keys()
        seen |= dict.fromkeys(row)
        if required := unseen & {columns.get(name) for name in ("example_id", "image_uri", "question")}:
            raise _missing(path, number, required, seen)
        yield number, _completed(_named(row, columns, path, number), kind, source)
    if number and unseen:
        raise _missing(path, number, unseen, seen)


def read_label(value: Any) -> float | None:
    """1.0 (hallucinated), 0.0, or None for an empty or NaN cell. Raises ValueError for anything else."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    text = str(value).strip().lower()
    if text in _NO_LABEL:
        return None
    if text not in _LABELS:
        raise ValueError(f"{value!r}")
    return _LABELS[text]


def kind_of(answer: str) -> str:
    """What the question asks, as far as its true answer tells: yes_no, or open."""
    return "yes_no" if answer.strip().strip(".").lower() in ("yes", "no") else "open"


def asks_yes_or_no(question: str) -> bool:
    """Does the question open with a verb that yes or no answers? For sets whose labels are dirty."""
    return bool(_YES_NO.match(question))


def _named(row: Mapping[str, Any], columns: Mapping[str, str], path: Path, number: int) -> dict[str, Any]:
    """One row by fields; a label, and under a mapping all unnamed columns, in `meta`."""
    filled = {name: value for name, value in row.items() if value not in ("", None)}
    named = {field: filled[column] for field, column in columns.items() if column in filled}
    rest = {name: value for name, value in filled.items() if name not in columns.values()}
    for name in (*FIELDS, LABEL):
        if name in rest and name not in columns:
            named[name] = rest.pop(name)
    label, meta = named.pop(LABEL, None), _meta(named.pop("meta", None), path, number)
    extra = {name: value for name, value in rest.items() if _is_json(value)} if columns else {}
    try:
        known = read_label(label)
    except ValueError as error:
        raise wrong(path, number, "a label of 1, 0, true or false, or none", str(error)) from error
    if not columns:
        named |= rest  # refused by name, where examples are checked
    named["meta"] = extra | meta | ({} if known is None else {LABEL: known})
    return {name: _text(value) if name in _TEXT_FIELDS else value for name, value in named.items()}


def _completed(row: dict[str, Any], kind: str | None, source: str) -> dict[str, Any]:
    row.setdefault("kind", kind or kind_of(str(row.get("answer", ""))))
    row.setdefault("source", source)
    return row


def _meta(value: Any, path: Path, number: int) -> dict[str, Any]:
    try:
        meta = json.loads(value) if isinstance(value, str) else value or {}
    except json.JSONDecodeError as error:
        raise wrong(path, number, "`meta` an object", str(error)) from error
    if not isinstance(meta, dict):
        raise wrong(path, number, "`meta` an object", repr(meta))
    return meta


def _text(value: Any) -> Any:
    """Numbers as text (ids are often integers), truths as yes and no; anything else as it is."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value) if isinstance(value, int | float) else value


def _is_json(value: Any) -> bool:
    return isinstance(value, str | int | float | bool | list | dict)


def _missing(path: Path, number: int, columns: Iterable[str | None], seen: Iterable[str]) -> DataError:
    names = ", ".join(sorted(str(column) for column in columns))
    return DataError(
        expected=f"the column {names} in {path}",
        got=f"only {', '.join(seen)} in {number} rows",
        hint="correct dataset.columns, which maps field to column",
    )


_QUOTES = "put cells that hold a comma in double quotes"
