"""Where examples come from: the rendered world, or files of `Example` rows."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, NonNegativeInt, PositiveInt, Tag

from sightline.config.base import Frozen, Location


class WorldDataset(Frozen):
    """Icon scenes, rendered on first use into the run's folder. No download."""

    type: Literal["world"] = "world"
    """Which kind of source; decides which of the other fields exist."""
    scenes: PositiveInt = 600
    """Number of images."""
    seed: NonNegativeInt = 1
    """Seed of the scenes. Evaluation draws from its own split and never meets these."""


class _Files(Frozen):
    """What both kinds of file have in common."""

    path: Location
    """The file; for parquet also a folder, whose `*.parquet` files are read in name order."""
    image_root: Location | None = None
    """Folder that relative `image_uri` values start from; null = the folder of the file."""
    limit: PositiveInt | None = None
    """Read only the first so many rows; null = all."""


class JsonlDataset(_Files):
    """One JSON object a line, with the fields of `sightline.records.Example`."""

    type: Literal["jsonl"]
    """Which kind of source; decides which of the other fields exist."""


class ParquetDataset(_Files):
    """Parquet file or folder of parts, with the columns of `sightline.records.Example`."""

    type: Literal["parquet"]
    """Which kind of source; decides which of the other fields exist."""


def _type_of(value: Any) -> str:
    """`type` may be left out: the embedded world is the default."""
    return str(value.get("type", "world") if isinstance(value, dict) else value.type)


DatasetConfig = Annotated[
    Annotated[WorldDataset, Tag("world")]
    | Annotated[JsonlDataset, Tag("jsonl")]
    | Annotated[ParquetDataset, Tag("parquet")],
    Discriminator(
        _type_of,
        custom_error_type="unknown_type",
        custom_error_message="type must be one of world, jsonl, parquet",
    ),
    Field(description="Where examples come from."),
]
"""`dataset.type` chooses: world (default), jsonl or parquet."""
