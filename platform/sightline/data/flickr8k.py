"""Flickr8k's captions -> one caption question an image, its five captions as references.

Two released forms: `captions.txt` (a header, then `image,caption`) and `Flickr8k.token.txt`
(`image.jpg#0<tab>caption`). No objects are annotated: CHAIR's truth is what the references name.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sightline.data.coco_chair import QUESTION
from sightline.data.examples import from_rows, wrong
from sightline.data.licences import require
from sightline.data.tables import csv_rows
from sightline.errors import DataError
from sightline.records import Example

CAPTIONS = 5


def read_flickr8k(
    path: str | Path, *, image_root: str | Path | None = None, limit: int | None = None
) -> list[Example]:
    """One caption question an image, in the order of the file; `meta["references"]` are its captions.

    Images start from `image_root` (default: `Images` beside the file). Raises DataError naming the
    line, or the images that have not five captions.
    """
    path = require(Path(path).absolute(), "flickr8k")
    references: dict[str, list[str]] = {}
    for image, caption in _token_lines(path) if path.name.endswith("token.txt") else _csv_lines(path):
        references.setdefault(image, []).append(caption)
    if odd := [image for image, texts in references.items() if len(texts) != CAPTIONS]:
        raise DataError(
            expected=f"{CAPTIONS} captions for each image of {path}",
            got=f"{len(references[odd[0]])} for {odd[0]} ({len(odd)} such images)",
        )
    rows = ((n, _row(image, texts)) for n, (image, texts) in enumerate(references.items(), start=1))
    return from_rows(rows, path, image_root or path.parent / "Images", limit)


def _row(image: str, references: list[str]) -> dict[str, Any]:
    return {
        "example_id": f"flickr8k/{Path(image).stem}",
        "image_id": Path(image).stem,
        "image_uri": image,
        "question": QUESTION,
        "kind": "caption",
        "split": "flickr8k",
        "source": "flickr8k",
        "meta": {"references": references},
    }


def _csv_lines(path: Path) -> Iterator[tuple[str, str]]:
    for number, row in csv_rows(path):
        if not row.get("image") or "caption" not in row:
            raise wrong(path, number, "columns image and caption", ", ".join(row))
        yield row["image"], row["caption"].strip()


def _token_lines(path: Path) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        key, tab, caption = line.partition("\t")
        image, mark, place = key.rpartition("#")
        if not tab or not mark or not place.isdigit():
            raise wrong(path, number, "image.jpg#0, a tab and a caption", repr(line[:60]))
        yield image, caption.strip()
