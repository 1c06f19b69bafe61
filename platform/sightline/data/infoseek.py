"""InfoSeek's JSON lines -> examples, with everything its scorer accepts.

A row: data_id, image_id, question, answer (a list), answer_eval (texts, or for numbers
{"wikidata": v, "range": [low, high]}), data_split (`val_unseen_question`, `val_unseen_entity`).
What is accepted stands in `meta["accepted"]` as {texts, low, high} (`metrics.vqa.Accepted`).
The images are OVEN's, `oven_04915423.jpg` and the like, under their `image_id`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sightline.data.documents import need, objects_of
from sightline.data.examples import from_rows, wrong
from sightline.records import Example

_KEYS = ("data_id", "image_id", "question", "answer")
_SUFFIXES = (".jpg", ".JPEG", ".jpeg", ".png")


def read_infoseek(
    path: str | Path, *, image_root: str | Path | None = None, limit: int | None = None
) -> list[Example]:
    """The questions of one InfoSeek file. Images start from `image_root` (default: `images` beside it).

    Raises DataError naming the row.
    """
    path = Path(path).absolute()
    root = Path(image_root or path.parent / "images").absolute()
    return from_rows(_rows(path, root), path, root, limit)


def _rows(path: Path, root: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, row in objects_of(path, "infoseek"):
        need(row, _KEYS, path, number)
        answers = row["answer"] if isinstance(row["answer"], list) else [row["answer"]]
        if not answers:
            raise wrong(path, number, "at least one answer", "none")
        image = str(row["image_id"])
        yield (
            number,
            {
                "example_id": str(row["data_id"]),
                "image_id": image,
                "image_uri": next((image + s for s in _SUFFIXES if (root / (image + s)).is_file()), image),
                "question": row["question"],
                "kind": "open",
                "answer": str(answers[0]),
                "split": str(row.get("data_split", "infoseek")),
                "source": "infoseek",
                "meta": {
                    "accepted": accepted(row.get("answer_eval") or answers, [str(a) for a in answers]),
                    "entity": str(row.get("entity_id", "")),
                },
            },
        )


def accepted(evaluated: list[Any], answers: list[str]) -> dict[str, Any]:
    """{texts} and, for a number, {low, high}: the range that InfoSeek gives it."""
    ranges = [e["range"] for e in evaluated if isinstance(e, dict) and "range" in e]
    texts = [str(e) for e in evaluated if not isinstance(e, dict)]
    found: dict[str, Any] = {"texts": list(dict.fromkeys([*answers, *texts]))}
    if ranges:
        low, high = sorted(float(v) for v in ranges[0])
        found |= {"low": low, "high": high}
    return found
