"""AMBER's released files -> examples: one image described, and yes/no questions about it.

`annotations.json` (id, type, truth, hallu), and the queries (`query/query_*.json`: id, image,
query). `split` is amber_generative, amber_existence, amber_attribute or amber_relation; the
image's lists stand in `objects` (true) and `meta["hallu"]` (imaginable), the type in
`meta["type"]`, as `metrics.amber` takes them; `meta["tables"]` is the folder of its word tables.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sightline.data.documents import load_json, need, objects_of, sha256_of_file
from sightline.data.examples import from_rows, wrong
from sightline.data.licences import require
from sightline.errors import DataError
from sightline.records import Example

ANNOTATIONS_SHA256 = "db22a436c4836fbb295e60b4e80d519573077579fb7032f01b193c1bd022b797"
"""Of the released annotations: 15,220 entries, 1,004 of them generative."""

UNKNOWN = "unknown"

_SPLITS = {
    "generative": "generative",
    "discriminative-hallucination": "existence",
    "discriminative-attribute-state": "attribute",
    "discriminative-attribute-number": "attribute",
    "discriminative-attribute-action": "attribute",
    "discriminative-relation": "relation",
    "relation": "relation",
}


def read_amber(
    path: str | Path, *, image_root: str | Path | None = None, limit: int | None = None
) -> list[Example]:
    """The questions of every query file in the folder (each id once), in the order of ids.

    `path` is AMBER's `data` folder. `meta["edition"]` is "released" or "unknown", by the hash of
    the annotations. Raises DataError naming the file and the entry.
    """
    folder = Path(path).absolute()
    annotations = folder / "annotations.json"
    known = {row["id"]: row for row in _annotations(annotations)}
    edition = "released" if sha256_of_file(annotations) == ANNOTATIONS_SHA256 else UNKNOWN
    files = sorted((folder / "query").glob("query_*.json"))
    if not files:
        require(folder / "query" / "query_all.json", "amber")
    asked: dict[int, dict[str, Any]] = {}
    for file in files:
        for number, row in objects_of(file, "amber"):
            need(row, ("id", "image", "query"), file, number)
            if row["id"] not in known:
                raise wrong(file, number, "an id of annotations.json", repr(row["id"]))
            asked[row["id"]] = row
    rows = ((i, _row(asked[i], known[i], edition, folder)) for i in sorted(asked))
    return from_rows(rows, folder, image_root or folder / "image", limit)


def read_amber_words(path: str | Path) -> tuple[dict[str, list[str]], frozenset[str]]:
    """The association table and the words that never count, for `metrics.amber.AmberWords`."""
    folder = Path(path).absolute()
    associated = load_json(folder / "relation.json", "amber")
    if not isinstance(associated, dict):
        raise DataError(expected="an object of word -> words in relation.json", got=type(associated).__name__)
    safe = require(folder / "safe_words.txt", "amber").read_text(encoding="utf-8").splitlines()
    return associated, frozenset(word for word in safe if word)


def _annotations(path: Path) -> Iterator[dict[str, Any]]:
    for number, row in objects_of(path, "amber"):
        need(row, ("id", "type", "truth"), path, number)
        if row["type"] not in _SPLITS:
            raise wrong(path, number, f"a type among {', '.join(_SPLITS)}", repr(row["type"]))
        yield row


def _row(asked: dict[str, Any], known: dict[str, Any], edition: str, folder: Path) -> dict[str, Any]:
    described = known["type"] == "generative"
    meta = {"type": known["type"], "edition": edition}
    return {
        "example_id": f"amber/{asked['id']}",
        "image_id": Path(asked["image"]).stem,
        "image_uri": asked["image"],
        "question": asked["query"],
        "kind": "caption" if described else "yes_no",
        "answer": "" if described else known["truth"],
        "objects": known["truth"] if described else [],
        "split": f"amber_{_SPLITS[known['type']]}",
        "source": "amber",
        "meta": meta | ({"hallu": known["hallu"], "tables": str(folder)} if described else {}),
    }
