"""`jobs/mine.py`: answers under three conditions, judged, become preference pairs."""

from __future__ import annotations

from sightline.config.base import Frozen
from sightline.config.dataset import DatasetConfig, WorldDataset
from sightline.config.mining import MineSettings
from sightline.config.model import ModelConfig
from sightline.config.resources import ResourcesConfig
from sightline.config.run import RunConfig


class MineConfig(Frozen):
    """Mine preference pairs into parquet shards under `run.root`/`run.name`."""

    run: RunConfig = RunConfig(name="mine")
    model: ModelConfig = ModelConfig()
    dataset: DatasetConfig = WorldDataset()
    mining: MineSettings = MineSettings()
    resources: ResourcesConfig = ResourcesConfig()
    dry_run: bool = False
    """Check everything, print the plan, and stop before any work. Same as `--dry-run`."""
