"""`tune/steering.py`: search mitigations that lower hallucination and keep what else a model can do."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt, model_validator

from sightline.config.base import Frozen, Location
from sightline.config.dataset import DatasetConfig
from sightline.config.directions import DeriveSettings, PairsConfig, WorldPairs
from sightline.config.evaluation import EvaluationConfig
from sightline.config.model import ModelConfig
from sightline.config.resources import ResourcesConfig
from sightline.config.run import RunConfig
from sightline.errors import ConfigError

Range = tuple[float, float]
"""Lowest and highest value."""
Method = Literal["vti", "steer", "spin", "pai"]
DecoderName = Literal["greedy", "beam", "vcd", "icd", "dola", "opera"]


class SteeringSpace(Frozen):
    """What is searched: which interventions, at which strength and layers, under which decoder."""

    methods: tuple[Method, ...] = ("vti", "spin", "pai")
    """Interventions that a trial may use, each or none of them, together or alone."""
    decoders: tuple[DecoderName, ...] = Field(default=("greedy", "vcd", "icd", "dola"), min_length=1)
    """Decoders that a trial chooses one of; greedy, the model as it is, must be among them."""
    text: Range = (0.1, 2.0)
    """Strength of VTI in the decoder."""
    image: Range = (0.0, 2.0)
    """Strength of VTI in the vision tower."""
    steer: Range = (0.1, 1.5)
    """Strength of plain steering."""
    mask_ratio: tuple[float, ...] = Field(default=(0.99, 0.5), min_length=1)
    """Shares of patches masked where the visual directions are derived; one derivation each."""
    kept_heads: Range = (0.5, 1.0)
    """SPIN's share of heads that is kept."""
    head_factor: Range = (0.0, 0.5)
    """SPIN's factor of the heads that are not."""
    boost: Range = (0.05, 0.6)
    """PAI's growth of the attention logits on the image."""
    layers: bool = True
    """Whether the stretch of decoder blocks of SPIN, PAI and the textual directions is searched."""
    contrast: Range = (0.1, 1.5)
    """Weight of the contrast of VCD and ICD."""
    plausible: Range = (0.02, 0.3)
    """How probable a token must be beside the best, for VCD, ICD and DoLa; on a logarithmic scale."""

    @model_validator(mode="after")
    def _sensible(self) -> SteeringSpace:
        for name in ("text", "image", "steer", "kept_heads", "head_factor", "boost", "contrast", "plausible"):
            low, high = getattr(self, name)
            if not low < high:
                raise ConfigError(expected=f"space.{name} as [lowest, highest]", got=f"[{low:g}, {high:g}]")
        if "greedy" not in self.decoders:
            raise ConfigError(expected="greedy among space.decoders", got=", ".join(self.decoders))
        if self.plausible[0] <= 0:
            raise ConfigError(expected="space.plausible above 0", got=f"{self.plausible[0]:g}")
        if self.kept_heads[1] > 1 or self.head_factor[1] > 1:
            raise ConfigError(
                expected="space.kept_heads and space.head_factor up to 1",
                got=f"{self.kept_heads[1]:g} and {self.head_factor[1]:g}",
            )
        for ratio in self.mask_ratio:
            if not 0 < ratio <= 1:
                raise ConfigError(expected="space.mask_ratio above 0, up to 1", got=f"{ratio:g}")
        for name in ("methods", "decoders", "mask_ratio"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                raise ConfigError(expected=f"every one of space.{name} once", got=", ".join(map(str, values)))
        return self


class SteeringObjectives(Frozen):
    """What a trial is judged by. A score is named `benchmark.metric`; several are averaged."""

    hallucination: tuple[str, ...] = Field(
        default=("pope_adversarial.false_yes_rate", "caption.chair_s"), min_length=1
    )
    """Scores that should fall."""
    kept: tuple[str, ...] = Field(default=("pope_adversarial.accuracy", "caption.recall"), min_length=1)
    """Scores that should not."""
    margin: NonNegativeFloat = 0.01
    """How far `kept` of the chosen trial may lie below that of the model as it is (0.01 = 1 point)."""


class SteeringSearch(Frozen):
    """Optuna's multi-objective TPE proposes. The model as it is, and each method alone, come first."""

    trials: PositiveInt = 48
    """Trials in all; a search that was killed goes on with those that are missing."""
    random_trials: PositiveInt = 12
    """Trials before TPE has something to learn from."""
    scenes: PositiveInt = 150
    """Scenes of the world's `val` stream that trials are judged on."""
    dataset: DatasetConfig | None = None
    """Examples that trials are judged on; null = `scenes` of the world."""
    seed: NonNegativeInt = 0
    """Seed of the proposals; with several workers, results also depend on who finishes first."""


class SweepSteeringConfig(Frozen):
    """Search mitigations, draw the Pareto front, and confirm the chosen point on untouched examples."""

    run: RunConfig = RunConfig(name="sweep-steering")
    model: ModelConfig = ModelConfig()
    pairs: PairsConfig = WorldPairs()
    derive: DeriveSettings = DeriveSettings()
    space: SteeringSpace = SteeringSpace()
    objectives: SteeringObjectives = SteeringObjectives()
    search: SteeringSearch = SteeringSearch()
    evaluation: EvaluationConfig = EvaluationConfig(scenes=400, captions=400)
    """How answers are made and scored; its examples (`dataset`, `scenes`) are those that confirm."""
    lexicon: Location | None = None
    """JSON object of surface form -> node word that captions are judged by; null = the embedded
    COCO nouns."""
    resources: ResourcesConfig = ResourcesConfig(workers=2)
    dry_run: bool = False
    """Check everything, print the plan, and stop before any work. Same as `--dry-run`."""

    @model_validator(mode="after")
    def _fits(self) -> SweepSteeringConfig:
        named = (*self.objectives.hallucination, *self.objectives.kept)
        for name in named:
            benchmark, _, metric = name.rpartition(".")
            if not benchmark or not metric:
                raise ConfigError(expected="objectives named benchmark.metric", got=name)
        if (self.search.dataset is None) != (self.evaluation.dataset is None):
            raise ConfigError(
                expected="both search.dataset and evaluation.dataset, or neither",
                got="one of them",
                hint="a search on your own examples must be confirmed on others of your own",
            )
        return self
