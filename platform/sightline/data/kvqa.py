"""KVQA's `dataset.json` -> examples: questions about named people in a photograph.

One object a photograph: imgPath, and lists of equal length Questions, Answers, "Type of
Question" (a list of types each), split (1 = train, 2 = validation, 3 = test in its five folds).
Answers are texts, numbers, or Yes and No, all compared as texts.
Shah et al., AAAI 2019: 24,602 images, 183,007 questions.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sightline.data.documents import load_json, need
from sightline.data.examples import from_rows, wrong
from sightline.errors import DataError
from sightline.records import Example

_KEYS = ("imgPath", "Questions", "Answers")


def read_kvqa(
    path: str | Path, *, image_root: str | Path | None = None, limit: int | None = None
) -> list[Example]:
    """Every question of every photograph; `meta["types"]` are the types KVQA gives it.

    Images start from `image_root` (default: the folder of the file). Raises DataError naming
    the photograph.
    """
    path = Path(path).absolute()
    file = path / "dataset.json" if path.is_dir() else path
    return from_rows(_rows(file), file, image_root or file.parent, limit)


def _rows(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    photographs = load_json(file, "kvqa")
    if not isinstance(photographs, dict):
        raise DataError(expected=f"an object of photographs in {file}", got=type(photographs).__name__)
    number = 0
    for place, (name, row) in enumerate(photographs.items(), start=1):
        need(row, _KEYS, file, place)
        questions, answers = row["Questions"], row["Answers"]
        if len(questions) != len(answers):
            raise wrong(file, place, f"{len(questions)} answers", f"{len(answers)} for photograph {name}")
        types = row.get("Type of Question") or [[] for _ in questions]
        for i, (question, answer) in enumerate(zip(questions, answers, strict=True)):
            number += 1
            yield (
                number,
                {
                    "example_id": f"kvqa/{name}/{i}",
                    "image_id": str(name),
                    "image_uri": row["imgPath"],
                    "question": question,
                    "kind": "open",
                    "answer": str(answer),
                    "split": "kvqa",
                    "source": "kvqa",
                    "meta": {"types": types[i] if isinstance(types[i], list) else [types[i]]},
                },
            )
