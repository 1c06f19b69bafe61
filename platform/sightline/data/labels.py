"""Labels from a file: which question was answered with a hallucination, by id."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sightline.data.examples import json_lines, parquet_rows, wrong
from sightline.data.tables import LABEL, csv_rows, read_label
from sightline.errors import DataError
from sightline.records import Example

ID_COLUMNS = ("question_id", "example_id")
LABEL_COLUMNS = (LABEL, "is_hallucinating_manual", "is_hallucinating")


def read_labels(path: str | Path) -> dict[str, float]:
    """Question id -> 1.0 (hallucinated) or 0.0, from CSV, JSONL or parquet; empty cells are left out.

    The id stands in one of ID_COLUMNS, the label in one of LABEL_COLUMNS. Raises DataError
    naming the row, also when an id is given twice.
    """
    path = Path(path).absolute()
    rows: dict[str, Any] = {".csv": csv_rows, ".parquet": parquet_rows}
    labels: dict[str, float] = {}
    seen: set[str] = set()
    for number, row in rows.get(path.suffix, json_lines)(path):
        if not isinstance(row, dict):
            raise wrong(path, number, "an object", type(row).__name__)
        key = next((str(row[name]) for name in ID_COLUMNS if name in row), None)
        if key is None:
            raise wrong(path, number, f"a value for {' or '.join(ID_COLUMNS)}", f"only {', '.join(row)}")
        if key in seen:
            raise wrong(path, number, "a question id used once", f"{key!r} again")
        seen.add(key)
        try:
            label = next((read_label(row[name]) for name in LABEL_COLUMNS if name in row), None)
        except ValueError as error:
            raise wrong(path, number, "a label of 1, 0, true or false, or none", str(error)) from error
        if label is not None:
            labels[key] = label
    if not labels:
        raise DataError(expected=f"a label in one of {', '.join(LABEL_COLUMNS)} of {path}", got="none")
    return labels


def join_labels(examples: Sequence[Example], labels: dict[str, float], path: str) -> list[Example]:
    """Examples with `meta["label"]` by example_id; those without one lose any other label.

    Raises DataError when no id is in both.
    """
    if not any(e.example_id in labels for e in examples):
        raise DataError(
            expected=f"labels for the dataset's questions, such as {examples[0].example_id!r}, in {path}",
            got=f"{len(labels)} labels of other ids, such as {next(iter(labels))!r}",
        )
    joined = []
    for example in examples:
        meta = {name: value for name, value in example.meta.items() if name != LABEL}
        if example.example_id in labels:
            meta[LABEL] = labels[example.example_id]
        joined.append(replace(example, meta=meta))
    return joined
