"""From a `dataset:` setting to examples: the rendered world, or the user's own files."""

from __future__ import annotations

from pathlib import Path
from typing import assert_never

from sightline.config.dataset import DatasetConfig, JsonlDataset, ParquetDataset, WorldDataset
from sightline.data.examples import read_jsonl, read_parquet
from sightline.records import Example


def load_examples(dataset: DatasetConfig, *, scratch: str | Path, split: str = "mine") -> list[Example]:
    """Every example of the dataset, checked. Raises DataError naming the row that is wrong.

    The world is rendered into `scratch` (a folder all machines can reach) on first use;
    `split` says which of its scene streams: `mine`, `val` or `test`.
    """
    match dataset:
        case WorldDataset():
            return read_jsonl(_render(dataset, Path(scratch), split))
        case JsonlDataset():
            return read_jsonl(dataset.path, image_root=dataset.image_root, limit=dataset.limit)
        case ParquetDataset():
            return read_parquet(dataset.path, image_root=dataset.image_root, limit=dataset.limit)
        case _:
            assert_never(dataset)


def _render(dataset: WorldDataset, scratch: Path, split: str) -> Path:
    from sightline.world.dataset import write

    folder = scratch / f"world-{split}-{dataset.scenes}-{dataset.seed}"
    found = folder / "examples.jsonl"  # written last, so it stands for the whole folder
    return found if found.exists() else write(folder, split=split, scenes=dataset.scenes, seed=dataset.seed)
