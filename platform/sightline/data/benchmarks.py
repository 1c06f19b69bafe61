"""Published benchmarks by name: which loader reads which files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

from sightline.data.amber import read_amber
from sightline.data.coco_chair import read_coco_chair
from sightline.data.flickr8k import read_flickr8k
from sightline.data.infoseek import read_infoseek
from sightline.data.items import read_objects
from sightline.data.kvqa import read_kvqa
from sightline.data.medhall import read_medhall
from sightline.data.mmed_rag import read_mmed_rag
from sightline.data.mmhal import read_mmhal
from sightline.records import Example


class Loader(Protocol):
    """A benchmark's files -> examples. Raises DataError naming what is wrong, or what to download."""

    def __call__(
        self, path: str | Path, *, image_root: str | Path | None = None, limit: int | None = None
    ) -> list[Example]: ...


BENCHMARKS: Mapping[str, Loader] = MappingProxyType(
    {
        "coco_chair": read_coco_chair,
        "amber": read_amber,
        "mmhal": read_mmhal,
        "infoseek": read_infoseek,
        "kvqa": read_kvqa,
        "medhall": read_medhall,
        "mmed_rag": read_mmed_rag,
        "flickr8k": read_flickr8k,
        "objects": read_objects,
    }
)
"""`dataset.type` -> its loader."""
