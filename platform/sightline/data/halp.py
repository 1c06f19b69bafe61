"""HALP's CSV -> examples with labels.

`alliedbrother/HALP_EACL`: question_id, image_id, question, is_hallucinating_manual, and often
the true and the given answer. The image of a row is `image_root/<image_id>`. The label goes to
`meta["label"]` (1.0 = hallucinated); how HALP came by it is their affair (their "manual" labels
come from rules).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sightline.data.examples import from_rows, wrong
from sightline.data.tables import LABEL, csv_rows, kind_of, read_label
from sightline.records import Example

COLUMNS = ("question_id", "image_id", "question")
TARGET = "is_hallucinating_manual"
_TRUTHS = ("ground_truth_answer", "gt_answer")
_SOURCES = ("source", "dataset", "source_dataset")
_SUFFIXES = ("", ".jpg", ".jpeg", ".png", ".webp")


def read_halp(
    path: str | Path, *, image_root: str | Path | None = None, limit: int | None = None
) -> list[Example]:
    """Examples with `meta["label"]`, all other columns in `meta` too.

    `kind` is yes_no where the true answer is one, else open. Images start from `image_root`
    (default: the folder of the CSV); an image_id without an extension gets that of the file
    that is there. Raises DataError naming the row or the missing column.
    """
    path = Path(path).absolute()
    root = Path(image_root or path.parent).absolute()
    return from_rows(_rows(path, root), path, root, limit)


def _rows(path: Path, root: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, row in csv_rows(path):
        if missing := [name for name in COLUMNS if not row.get(name)]:
            raise wrong(path, number, f"a value for {', '.join(COLUMNS)}", f"none for {', '.join(missing)}")
        if number == 1 and TARGET not in row:
            raise wrong(path, number, f"the column {TARGET}", f"only {', '.join(row)}", _OTHER)
        try:
            label = read_label(row.get(TARGET))
        except ValueError as error:
            raise wrong(path, number, f"true or false in {TARGET}", str(error)) from error
        truth = next((row[name] for name in _TRUTHS if name in row), "")
        rest = {name: value for name, value in row.items() if name not in (*COLUMNS, TARGET)}
        yield (
            number,
            {
                "example_id": row["question_id"],
                "image_id": row["image_id"],
                "image_uri": _file(root, row["image_id"]),
                "question": row["question"],
                "kind": kind_of(truth),
                "answer": truth,
                "source": next((row[name] for name in _SOURCES if name in row), "halp"),
                "meta": rest | ({} if label is None else {LABEL: label}),
            },
        )


def _file(root: Path, image_id: str) -> str:
    """The image's path; as it stands when no extension makes it a file (its row will fail)."""
    found = (f"{image_id}{suffix}" for suffix in _SUFFIXES if (root / f"{image_id}{suffix}").is_file())
    return next(found, image_id)


_OTHER = "for a table with other columns use dataset.type=csv and dataset.columns"
