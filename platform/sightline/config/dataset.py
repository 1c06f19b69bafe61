"""Where examples come from: the rendered world, tables, tar shards, POPE's or HALP's files."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, Literal, get_args

from pydantic import Discriminator, Field, NonNegativeInt, PositiveInt, Tag, field_validator

from sightline.config.base import Frozen, Location
from sightline.records import Example, Kind

FIELDS = (*(field.name for field in dataclasses.fields(Example)), "label")
"""What a column can be: a field of an example, or its label (1 = hallucinated, 0 = not)."""


class WorldDataset(Frozen):
    """Icon scenes, rendered on first use into the run's folder. No download."""

    type: Literal["world"] = "world"
    """Which kind of source; decides which of the other fields exist."""
    scenes: PositiveInt = 600
    """Number of images."""
    seed: NonNegativeInt = 1
    """Seed of the scenes. Evaluation draws from its own split and never meets these."""
    kinds: tuple[Kind, ...] | None = None
    """Only questions of these kinds, such as [yes_no, color, count]; null = all."""


class _Files(Frozen):
    """What all kinds of file have in common."""

    path: Location
    """The file; for parquet, webdataset and pope also a folder, read in name order."""
    limit: PositiveInt | None = None
    """Read only the first so many rows; null = all."""


class _WithImages(_Files):
    """A table beside a folder of images."""

    image_root: Location | None = None
    """Folder that relative image paths start from; null = the folder of the file."""


class _Columns(Frozen):
    """How the columns of somebody's own table are to be read."""

    columns: dict[str, str] = {}
    """Field -> column, as in {example_id: qid, image_uri: file, answer: gt, label: is_wrong};
    fields are those of `sightline.records.Example`, and `label` (1 = hallucinated). Columns
    that are not named go into `meta`. Empty = the columns are the fields, and no other."""
    kind: Kind | None = None
    """What all questions ask, where no column says; null = yes_no where the answer is one, else open."""
    source: str = ""
    """Name of the data set, where no column says."""

    @field_validator("columns")
    @classmethod
    def _names_fields(cls, columns: dict[str, str]) -> dict[str, str]:
        if unknown := sorted(set(columns) - set(FIELDS)):
            raise ValueError(f"expected fields among {', '.join(FIELDS)}, not {', '.join(unknown)}")
        return columns


class JsonlDataset(_WithImages, _Columns):
    """One JSON object a line, with the fields of `sightline.records.Example` or `columns`."""

    type: Literal["jsonl"]
    """Which kind of source; decides which of the other fields exist."""


class CsvDataset(_WithImages, _Columns):
    """Comma-separated values under a header line, in UTF-8."""

    type: Literal["csv"]
    """Which kind of source; decides which of the other fields exist."""


class ParquetDataset(_WithImages, _Columns):
    """Parquet file or folder of parts, with the columns of `sightline.records.Example` or `columns`."""

    type: Literal["parquet"]
    """Which kind of source; decides which of the other fields exist."""


class WebDataset(_Files, _Columns):
    """Tar shards: `key.jpg` beside `key.json`, which holds one row, or a list of rows.

    `path` is a tar file, a folder of them, or a pattern such as `shard-{000..127}.tar`.
    """

    type: Literal["webdataset"]
    """Which kind of source; decides which of the other fields exist."""


class PopeDataset(_WithImages):
    """POPE's own files: one JSON object a line with question_id, image, text and label (yes or no)."""

    type: Literal["pope"]
    """Which kind of source; decides which of the other fields exist."""


class HalpDataset(_WithImages):
    """HALP's CSV: question_id, image_id, question, is_hallucinating_manual; images by image_id."""

    type: Literal["halp"]
    """Which kind of source; decides which of the other fields exist."""


Benchmark = Literal[
    "coco_chair", "amber", "mmhal", "infoseek", "kvqa", "medhall", "mmed_rag", "flickr8k", "objects"
]
RESTRICTED: tuple[Benchmark, ...] = ("medhall", "mmed_rag")
"""Under use agreements: neither their text nor their images may go into a run folder."""


class BenchmarkFiles(_WithImages):
    """A published benchmark's own files; `sightline.data.licences` says which, from where, and the licence.

    coco_chair: COCO's `annotations` folder. amber: its `data` folder. mmhal, kvqa: the file or its
    folder. infoseek, medhall, mmed_rag, flickr8k: the file. objects: a list of {image, objects},
    asked about as POPE and captions.
    """

    type: Benchmark
    """Which kind of source; decides which of the other fields exist."""

    @property
    def restricted(self) -> bool:
        """Is it under a use agreement?"""
        return self.type in RESTRICTED


BENCHMARKS: tuple[str, ...] = get_args(Benchmark)
TYPES = ("world", "jsonl", "csv", "parquet", "webdataset", "pope", "halp", *BENCHMARKS)


def _type_of(value: Any) -> str:
    """`type` may be left out: the embedded world is the default."""
    name = str(value.get("type", "world") if isinstance(value, dict) else value.type)
    return "benchmark" if name in BENCHMARKS else name


DatasetConfig = Annotated[
    Annotated[WorldDataset, Tag("world")]
    | Annotated[JsonlDataset, Tag("jsonl")]
    | Annotated[CsvDataset, Tag("csv")]
    | Annotated[ParquetDataset, Tag("parquet")]
    | Annotated[WebDataset, Tag("webdataset")]
    | Annotated[PopeDataset, Tag("pope")]
    | Annotated[HalpDataset, Tag("halp")]
    | Annotated[BenchmarkFiles, Tag("benchmark")],
    Discriminator(
        _type_of,
        custom_error_type="unknown_type",
        custom_error_message=f"type must be one of {', '.join(TYPES)}",
    ),
    Field(description="Where examples come from."),
]
"""`dataset.type` chooses; the default is world."""
