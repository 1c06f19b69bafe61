"""What a search over probes chooses from, and how its winner is compared with the default.

Knows neither Ray nor Optuna: `SearchSpace` asks anything that has Optuna's `suggest_*`. A choice
is a flat mapping of what was suggested:

    {kind: query_token, layer_of_query_token: 2, head: mlp, widths: 256-128, dropout: 0.1,
     lr: 3e-4, weight_decay: 1e-5, class_weight: none}

Layers are suggested by their place in the list, so that neighbours count as alike.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from sightline.activations.sites import Site
from sightline.config.probing import ProbeSettings
from sightline.config.sweep_probe import ProbeSpace
from sightline.metrics.bootstrap import Difference, Estimate
from sightline.metrics.detection import resampled_aurocs
from sightline.probes.epochs import Epoch

End = Literal["overtaken", "patience", "epochs", "failed"]
"""Why a trial ended: ASHA stopped it, its validation loss stopped falling, all epochs, an error."""


class Suggests(Protocol):
    """The part of `optuna.Trial` that is used."""

    def suggest_categorical(self, name: str, choices: Sequence[str]) -> Any: ...

    def suggest_int(self, name: str, low: int, high: int) -> int: ...

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float: ...


@dataclass(frozen=True, slots=True)
class SearchSpace:
    """Sites of a store and ranges of settings. Called with an Optuna trial, it suggests one choice."""

    sites: tuple[str, ...]
    ranges: ProbeSpace
    patience: int

    def __call__(self, trial: Suggests) -> None:
        by_kind, ranges = self.by_kind(), self.ranges
        kind = trial.suggest_categorical("kind", list(by_kind))
        if len(by_kind[kind]) > 1:
            trial.suggest_int(f"layer_of_{kind}", 0, len(by_kind[kind]) - 1)
        if trial.suggest_categorical("head", list(ranges.heads)) == "mlp":
            trial.suggest_categorical("widths", [_join(widths) for widths in ranges.widths])
            trial.suggest_float("dropout", *ranges.dropout)
        trial.suggest_float("lr", *ranges.lr, log=True)
        trial.suggest_float("weight_decay", *ranges.weight_decay, log=True)
        trial.suggest_categorical("class_weight", list(ranges.class_weight))

    def by_kind(self) -> dict[str, list[str]]:
        """Kind of site -> its sites from the lowest layer up."""
        found: dict[str, list[Site]] = {}
        for site in map(Site.parse, self.sites):
            found.setdefault(site.kind, []).append(site)
        return {kind: [s.name for s in sorted(sites, key=_depth)] for kind, sites in found.items()}

    def site(self, choice: Mapping[str, Any]) -> str:
        kind = choice["kind"]
        return self.by_kind()[kind][int(choice.get(f"layer_of_{kind}", 0))]

    def settings(self, choice: Mapping[str, Any], base: ProbeSettings) -> ProbeSettings:
        """`base` with what was chosen, ended early by the search's patience."""
        chosen: dict[str, Any] = {
            name: choice[name]
            for name in ("head", "dropout", "lr", "weight_decay", "class_weight")
            if name in choice
        }
        if "widths" in choice:
            chosen["widths"] = tuple(map(int, choice["widths"].split("-")))
        return ProbeSettings.model_validate(base.model_dump() | chosen | {"patience": self.patience})


@dataclass(slots=True)
class Course:
    """A trial on its way: the validation AUROC of the weights that would be kept if it ended now."""

    kept: list[float] = field(default_factory=list)
    _best_loss: float = math.inf

    def add(self, epoch: Epoch) -> None:
        """A diverged epoch (no finite loss) leaves the best weights as they were: 0.5 if there are none."""
        if epoch.valid_loss < self._best_loss:
            self._best_loss = epoch.valid_loss
            self.kept.append(epoch.valid_auroc)
        else:
            self.kept.append(self.kept[-1] if self.kept else 0.5)


@dataclass(frozen=True, slots=True)
class Trial:
    """One finished trial. `curve` is the kept weights' validation AUROC after each epoch."""

    trial_id: str
    choice: dict[str, Any]
    site: str
    auroc: float
    curve: tuple[float, ...]
    end: End
    error: str = ""

    @property
    def name(self) -> str:
        return f"{self.site} {self.choice['head']} {self.trial_id}"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Trial:
        auroc = math.nan if value["auroc"] is None else value["auroc"]
        return cls(**{**value, "auroc": auroc, "curve": tuple(value["curve"])})


def best_of(trials: Sequence[Trial]) -> Trial | None:
    """The highest validation AUROC; None if every trial failed."""
    sound = [trial for trial in trials if not math.isnan(trial.auroc)]
    return max(sound, key=lambda trial: trial.auroc, default=None)


def compare(
    labels_N: npt.ArrayLike,
    default_SN: Sequence[npt.ArrayLike],
    winner_SN: Sequence[npt.ArrayLike],
    clusters: Sequence[object],
    *,
    resamples: int,
    level: float,
) -> tuple[Estimate, Estimate, Difference]:
    """AUROC of the default, of the winner, and the difference, each the mean over S seeds.

    Images are resampled; all probes are judged on the same resample (paired).
    """
    scores = [*default_SN, *winner_SN]
    values_DR = resampled_aurocs(labels_N, scores, clusters, resamples=resamples)
    count = len(default_SN)
    default_R, winner_R = values_DR[:count].mean(axis=0), values_DR[count:].mean(axis=0)
    n = len(np.asarray(labels_N))
    default, winner = _estimate(default_R, level, n), _estimate(winner_R, level, n)
    delta = _estimate(winner_R - default_R, level, n)
    return default, winner, Difference(default.value, winner.value, delta.value, delta.low, delta.high, n)


def _estimate(values_R: npt.NDArray[np.float64], level: float, n: int) -> Estimate:
    """The first value is the whole sample's; the others are the resamples'."""
    drawn_R = values_R[1:][~np.isnan(values_R[1:])]
    if not len(drawn_R):
        return Estimate(float(values_R[0]), math.nan, math.nan, n)
    tail = (1.0 - level) / 2.0
    low, high = np.quantile(drawn_R, [tail, 1.0 - tail])
    return Estimate(float(values_R[0]), float(low), float(high), n)


def _depth(site: Site) -> int:
    return -2 if site.layer is None else site.layer


def _join(widths: Sequence[int]) -> str:
    return "-".join(map(str, widths))
