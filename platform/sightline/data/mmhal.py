"""MMHal-Bench's template -> examples: 96 free questions, eight types in turn.

The file names its images by URL and holds none; the user downloads them into one folder, each
under the last part of its URL (or its `image_id`). Rows do not fetch.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from sightline.data.documents import need, objects_of
from sightline.data.examples import from_rows, wrong
from sightline.errors import DataError
from sightline.records import Example

QUESTIONS = 96
TYPES = ("attribute", "adversarial", "comparison", "counting", "relation", "environment", "holistic", "other")
_KEYS = ("question_type", "image_id", "image_src", "image_content", "question", "gt_answer")


def read_mmhal(
    path: str | Path, *, image_root: str | Path | None = None, limit: int | None = None
) -> list[Example]:
    """The 96 questions in their fixed order; `meta` has type, topic and contents for the judge.

    Raises DataError when the number or the order of types is another: scores by type rest on it.
    """
    path = Path(path).absolute()
    file = path / "response_template.json" if path.is_dir() else path
    examples = from_rows(_rows(file), file, image_root or file.parent / "images")
    if len(examples) != QUESTIONS:
        raise DataError(expected=f"MMHal's {QUESTIONS} questions in {file}", got=f"{len(examples)}")
    return examples[:limit]


def _rows(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, row in objects_of(file, "mmhal"):
        need(row, _KEYS, file, number)
        expected = TYPES[(number - 1) % len(TYPES)]
        if row["question_type"] != expected:
            raise wrong(file, number, f"a question of type {expected}", repr(row["question_type"]))
        yield (
            number,
            {
                "example_id": f"mmhal/{number}",
                "image_id": row["image_id"],
                "image_uri": Path(urlsplit(row["image_src"]).path).name or row["image_id"],
                "question": row["question"],
                "kind": "open",
                "answer": row["gt_answer"],
                "split": "mmhal",
                "source": "mmhal",
                "meta": {
                    "type": expected,
                    "topic": row.get("question_topic", ""),
                    "contents": row["image_content"],
                    "url": row["image_src"],
                },
            },
        )
