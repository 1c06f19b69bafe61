"""`tune/probe.py`: search for a better probe, and prove it on rows the search never saw."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from sightline.config.base import Frozen, Location
from sightline.config.probing import ProbeSettings, SplitSettings
from sightline.config.resources import ResourcesConfig
from sightline.config.run import RunConfig
from sightline.errors import ConfigError


class ProbeSpace(Frozen):
    """What is searched beside the site; everything else is as in `probe`."""

    heads: tuple[Literal["mlp", "linear"], ...] = Field(default=("mlp", "linear"), min_length=1)
    """Kinds of probe; widths and dropout concern the MLP alone."""
    widths: tuple[tuple[PositiveInt, ...], ...] = Field(
        default=((512, 256, 128), (256, 128), (128,), (512,), (64, 32)), min_length=1
    )
    """Hidden widths of the MLP, one list a choice."""
    dropout: tuple[NonNegativeFloat, NonNegativeFloat] = (0.0, 0.6)
    """Lowest and highest share dropped."""
    lr: tuple[PositiveFloat, PositiveFloat] = (1e-5, 1e-2)
    """Lowest and highest learning rate, searched on a logarithmic scale."""
    weight_decay: tuple[PositiveFloat, PositiveFloat] = (1e-6, 1e-1)
    """Lowest and highest L2 penalty, searched on a logarithmic scale."""
    class_weight: tuple[Literal["none", "balanced"], ...] = Field(default=("none", "balanced"), min_length=1)
    """Weightings of the classes."""

    @model_validator(mode="after")
    def _rising(self) -> ProbeSpace:
        for name in ("dropout", "lr", "weight_decay"):
            low, high = getattr(self, name)
            if not low < high or (name == "dropout" and high >= 1):
                raise ConfigError(
                    expected=f"space.{name} as [lowest, highest]" + (" below 1" if name == "dropout" else ""),
                    got=f"[{low:g}, {high:g}]",
                )
        return self


class SearchSettings(Frozen):
    """Optuna's TPE proposes, ASHA stops what falls behind."""

    trials: PositiveInt = 60
    """Trials in all; a search that was killed goes on with those that are missing."""
    random_trials: PositiveInt = 15
    """Trials drawn at random before TPE has something to learn from."""
    grace_epochs: PositiveInt = 4
    """Epochs every trial gets before it can be stopped."""
    reduction: int = Field(default=3, ge=2)
    """ASHA keeps one in so many of the trials at each rung."""
    patience: PositiveInt = 6
    """A trial also ends after so many epochs without a better validation loss; its best one counts."""
    seed: NonNegativeInt = 0
    """Seed of the proposals; with several workers, results also depend on who finishes first."""


class SweepProbeConfig(Frozen):
    """Search sites and settings of a probe; refit the winner, compare it with the default, show it."""

    run: RunConfig = RunConfig(name="sweep-probe")
    activations: Location | None = None
    """Folder of an activation store; null = that of `python jobs/extract.py` under `run.root`."""
    label: str = "label"
    """Column of the store with 1 (hallucinated) and 0; rows without a value are left out."""
    sites: tuple[str, ...] = ()
    """Names of the sites to search, such as query_token.layer_4; none = all of the store."""
    probe: ProbeSettings = ProbeSettings()
    """The default that the winner is compared with, and the settings that are not searched."""
    space: ProbeSpace = ProbeSpace()
    search: SearchSettings = SearchSettings()
    split: SplitSettings = SplitSettings(valid_share=0.2)
    """The search trains on `train` and chooses on `valid`; `test` is opened once, at the end."""
    seeds: tuple[NonNegativeInt, ...] = Field(default=(42, 43, 44, 45, 46), min_length=1)
    """Seeds that the winner and the default are refitted with."""
    bootstrap: PositiveInt = 1000
    """Resamples (by image) behind each interval."""
    confidence: float = Field(default=0.95, gt=0.5, lt=1.0)
    """Coverage of the intervals."""
    resources: ResourcesConfig = ResourcesConfig(workers=2)
    dry_run: bool = False
    """Examine the store as this run would use it, print the findings, stop. Same as `--check`."""

    @model_validator(mode="after")
    def _validates(self) -> SweepProbeConfig:
        if not self.split.valid_share:
            raise ConfigError(expected="split.valid_share above 0: the search chooses on these rows", got="0")
        if self.search.grace_epochs > self.probe.epochs:
            raise ConfigError(
                expected=f"search.grace_epochs of at most probe.epochs={self.probe.epochs}",
                got=str(self.search.grace_epochs),
            )
        return self
