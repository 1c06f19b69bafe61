"""CHAIR on COCO: images to describe, the objects annotated in them, their reference captions.

From COCO's own annotation files (`instances_*.json` and `captions_*.json` of one year and part).
The truth of CHAIR is both together: `objects` are the annotated categories, and the captions in
`meta["references"]` go through the same scorer (`metrics.chair.Chair.truth`). Some code bases
read instances of 2017 with captions of 2014; here an image without captions is an error.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

from sightline.data.documents import load_json
from sightline.data.examples import from_rows
from sightline.data.licences import SOURCES
from sightline.errors import DataError
from sightline.records import Example

QUESTION = "Please describe this image in detail."


def read_coco_chair(
    path: str | Path,
    *,
    image_root: str | Path | None = None,
    limit: int | None = None,
    question: str = QUESTION,
) -> list[Example]:
    """One caption question for each image that has annotated objects, in the order of image ids.

    `path` is COCO's `annotations` folder. `limit` takes the first so many. Raises DataError when a
    file is missing or the two files are of different images.
    """
    folder = Path(path).absolute()
    instances = load_json(_only(folder, "instances"), "coco_chair")
    captions = load_json(_only(folder, "captions"), "coco_chair")
    names = {c["id"]: c["name"] for c in instances["categories"]}
    objects: dict[int, set[str]] = defaultdict(set)
    for annotation in instances["annotations"]:
        objects[annotation["image_id"]].add(names[annotation["category_id"]])
    references: dict[int, list[str]] = defaultdict(list)
    for annotation in captions["annotations"]:
        references[annotation["image_id"]].append(annotation["caption"])
    if bare := sorted(set(objects) - set(references)):
        raise DataError(
            expected="captions of the same images as the instances (one year, one part)",
            got=f"none for {len(bare)} of {len(objects)} images, such as {bare[0]}",
            hint="do not mix COCO 2014 and 2017",
        )
    files = {image["id"]: image["file_name"] for image in instances["images"]}
    rows = (
        (n, _row(files[i], i, sorted(objects[i]), references[i], question))
        for n, i in enumerate(sorted(objects), start=1)
    )
    return from_rows(rows, folder, image_root or folder.parent, limit)


def _row(
    file: str, image_id: int, objects: list[str], references: list[str], question: str
) -> dict[str, Any]:
    return {
        "example_id": f"coco_chair/{image_id}",
        "image_id": str(image_id),
        "image_uri": file,
        "question": question,
        "kind": "caption",
        "objects": objects,
        "split": "coco_chair",
        "source": "coco",
        "meta": {"references": references},
    }


def _only(folder: Path, stem: str) -> Path:
    found = sorted(folder.glob(f"{stem}_*.json"))
    if len(found) != 1:
        source = SOURCES["coco_chair"]
        raise DataError(
            expected=f"one {stem}_*.json in {folder}",
            got=", ".join(f.name for f in found) or "none",
            hint=f"get {source.files} from {source.url} (licence: {source.licence})",
        )
    return found[0]
