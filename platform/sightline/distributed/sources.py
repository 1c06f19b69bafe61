"""From a `dataset:` setting to examples: the rendered world, or the user's own files."""

from __future__ import annotations

from pathlib import Path
from typing import assert_never

from sightline.config.dataset import (
    BenchmarkFiles,
    CsvDataset,
    DatasetConfig,
    HalpDataset,
    JsonlDataset,
    ParquetDataset,
    PopeDataset,
    WebDataset,
    WorldDataset,
)
from sightline.data.benchmarks import BENCHMARKS
from sightline.data.examples import read_jsonl
from sightline.data.halp import read_halp
from sightline.data.pope import read_pope
from sightline.data.tables import read_table
from sightline.data.webdataset import read_webdataset
from sightline.errors import DataError
from sightline.records import Example


def load_examples(dataset: DatasetConfig, *, scratch: str | Path, split: str = "mine") -> list[Example]:
    """Every example of the dataset, checked. Raises DataError naming the row that is wrong.

    The world is rendered into `scratch` (a folder all machines can reach) on first use;
    `split` says which of its scene streams: `mine`, `val` or `test`.
    """
    match dataset:
        case WorldDataset():
            return _of_kinds(read_jsonl(_render(dataset, Path(scratch), split)), dataset.kinds)
        case JsonlDataset() | CsvDataset() | ParquetDataset():
            return read_table(
                dataset.path,
                form=dataset.type,
                columns=dataset.columns,
                kind=dataset.kind,
                source=dataset.source,
                image_root=dataset.image_root,
                limit=dataset.limit,
            )
        case WebDataset():
            return read_webdataset(
                dataset.path,
                columns=dataset.columns,
                kind=dataset.kind,
                source=dataset.source,
                limit=dataset.limit,
            )
        case PopeDataset():
            return read_pope(dataset.path, image_root=dataset.image_root, limit=dataset.limit)
        case HalpDataset():
            return read_halp(dataset.path, image_root=dataset.image_root, limit=dataset.limit)
        case BenchmarkFiles():
            read = BENCHMARKS[dataset.type]
            return read(dataset.path, image_root=dataset.image_root, limit=dataset.limit)
        case _:
            assert_never(dataset)


def _of_kinds(examples: list[Example], kinds: tuple[str, ...] | None) -> list[Example]:
    asked = [example for example in examples if kinds is None or example.kind in kinds]
    if not asked:
        raise DataError(expected=f"questions of the kinds {', '.join(kinds or ())}", got="none")
    return asked


def _render(dataset: WorldDataset, scratch: Path, split: str) -> Path:
    from sightline.world.dataset import write

    folder = scratch / f"world-{split}-{dataset.scenes}-{dataset.seed}"
    found = folder / "examples.jsonl"  # written last, so it stands for the whole folder
    return found if found.exists() else write(folder, split=split, scenes=dataset.scenes, seed=dataset.seed)
