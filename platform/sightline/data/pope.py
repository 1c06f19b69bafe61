"""POPE's released files -> examples.

Li et al., EMNLP 2023 (`AoiDragon/POPE`, `output/coco/coco_pope_random.json`, ...): one JSON
object a line, {"question_id": 1, "image": "COCO_val2014_000000310196.jpg", "text": "Is there
a snowboard in the image?", "label": "yes"}. The ids start from 1 in every file, so they are
joined with the file's name. `label` is the truth, not a label of hallucination.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from sightline.data.examples import from_rows, json_lines, wrong
from sightline.data.pope_editions import edition_of
from sightline.errors import DataError
from sightline.records import Example

_COLUMNS = ("question_id", "image", "text", "label")


def read_pope(
    path: str | Path, *, image_root: str | Path | None = None, limit: int | None = None
) -> list[Example]:
    """The questions of one POPE file, or of all `*.json` and `*.jsonl` files of a folder.

    `split` is the file's name, `source` is "pope", `meta["edition"]` the edition that the content is
    recognised as (`pope_editions`). Relative images start from `image_root`
    (default: the folder of the file). Raises DataError naming file and row.
    """
    path = Path(path).absolute()
    files = sorted(f for f in path.iterdir() if f.suffix in (".json", ".jsonl")) if path.is_dir() else [path]
    if not files:
        raise DataError(expected=f"POPE's *.json files in {path}", got="none", hint="check dataset.path")
    root = Path(image_root) if image_root is not None else (path if path.is_dir() else path.parent)
    examples: list[Example] = []
    for file in files:
        left = None if limit is None else limit - len(examples)
        if left is None or left > 0:
            read = from_rows(_rows(file), file, root)
            found = edition_of(read)
            meta = {"edition": f"{found.name} {found.fingerprint[:12]}"}
            examples += [replace(e, meta=meta) for e in read[:left]]
    return examples


def _rows(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, row in json_lines(file):
        if not isinstance(row, dict) or any(name not in row for name in _COLUMNS):
            got = ", ".join(row) if isinstance(row, dict) else type(row).__name__
            raise wrong(file, number, f"an object with {', '.join(_COLUMNS)}", got)
        truth = str(row["label"]).strip().lower()
        if truth not in ("yes", "no"):
            raise wrong(file, number, "a label of yes or no", repr(row["label"]), _CHAT)
        yield (
            number,
            {
                "example_id": f"{file.stem}/{row['question_id']}",
                "image_id": Path(str(row["image"])).stem,
                "image_uri": row["image"],
                "question": row["text"],
                "kind": "yes_no",
                "answer": truth,
                "split": file.stem,
                "source": "pope",
            },
        )


_CHAT = "the multi-turn edition (`chat`), whose labels are lists, is not read"
