"""`jobs/dpo.py`: mine, train by preference, measure before and after."""

from __future__ import annotations

from pydantic import model_validator

from sightline.config.base import Frozen, Location
from sightline.config.dataset import DatasetConfig, WorldDataset
from sightline.config.evaluation import EvaluationConfig
from sightline.config.lora import LoraConfig
from sightline.config.mining import MineSettings
from sightline.config.model import ModelConfig
from sightline.config.resources import ResourcesConfig
from sightline.config.run import RunConfig
from sightline.config.training import TrainingConfig
from sightline.config.zero import DeepSpeed
from sightline.errors import ConfigError


class DpoConfig(Frozen):
    """The main job. Without any setting: the reference VLM on the embedded world."""

    run: RunConfig = RunConfig(name="dpo")
    model: ModelConfig = ModelConfig()
    dataset: DatasetConfig = WorldDataset()
    pairs: Location | None = None
    """Folder or file of finished preference pairs (parquet); null = mine them first."""
    mining: MineSettings = MineSettings()
    training: TrainingConfig = TrainingConfig()
    lora: LoraConfig | None = None
    """Train low-rank adapters; null = train all weights."""
    deepspeed: DeepSpeed | None = None
    """ZeRO stage (0 to 3) or the path of a DeepSpeed JSON; null = plain data parallel."""
    resources: ResourcesConfig = ResourcesConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    dry_run: bool = False
    """Build everything on the meta device, print the plan, stop. Same as `--dry-run`."""

    @model_validator(mode="after")
    def _batch_reaches_every_worker(self) -> DpoConfig:
        batch, micro = self.training.global_batch, self.training.micro_batch
        workers = self.resources.workers
        step = micro * workers
        if batch % step:
            raise ConfigError(
                expected="training.global_batch to be a multiple of training.micro_batch x resources.workers",
                got=f"{batch} and {micro} x {workers}",
                hint=f"set training.global_batch to {-(-batch // step) * step}",
            )
        return self
