"""What a search over mitigations chooses from, how trials compare, and which one is taken.

Knows neither Ray nor Optuna: `SteeringChoices` asks anything that has Optuna's `suggest_*`. A choice
is a flat mapping of what was suggested, `{use_spin: yes, spin_k: 0.8, spin_from: 1, spin_to: 4,
decoder: vcd, contrast: 0.6, ...}`; `mitigations` turns it into settings.

Two objectives: `hallucination`, to be lowered, and `kept`, to be kept; each the mean of named scores.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from sightline.config.mitigations import Mitigation, mitigations_of
from sightline.config.sweep_steering import SteeringObjectives, SteeringSpace
from sightline.errors import ConfigError
from sightline.probes.search import Suggests

YES, NO = "yes", "no"
_STRETCHED = ("vti", "steer", "spin", "pai")
"""Methods with a setting `layers`."""


@dataclass(frozen=True, slots=True)
class SteeringChoices:
    """The space over one model. Called with an Optuna trial, it suggests one choice.

    `directions` maps mask ratios, as text, to the folders of their directions; `blocks` is the
    number of the model's decoder blocks.
    """

    space: SteeringSpace
    directions: Mapping[str, str]
    blocks: int

    def __call__(self, trial: Suggests) -> None:
        space = self.space
        for method in space.methods:
            if trial.suggest_categorical(f"use_{method}", [YES, NO]) == YES:
                self._suggest(trial, method)
        decoder = trial.suggest_categorical("decoder", list(space.decoders))
        if decoder in ("vcd", "icd"):
            trial.suggest_float("contrast", *space.contrast)
        if decoder in ("vcd", "icd", "dola"):
            trial.suggest_float("plausible", *space.plausible, log=True)
        if decoder == "dola":
            trial.suggest_categorical("dola_layers", ["low", "high"])

    def _suggest(self, trial: Suggests, method: str) -> None:
        space = self.space
        match method:
            case "vti":
                trial.suggest_float("vti_text", *space.text)
                trial.suggest_float("vti_image", *space.image)
                if len(self.directions) > 1:
                    trial.suggest_categorical("mask_ratio", list(self.directions))
            case "steer":
                trial.suggest_float("steer_strength", *space.steer)
            case "spin":
                trial.suggest_float("spin_k", *space.kept_heads)
                trial.suggest_float("spin_alpha", *space.head_factor)
            case "pai":
                trial.suggest_float("pai_alpha", *space.boost)
        if space.layers and self.blocks > 1:
            # Two ends in any order: a range that depends on another would be new to TPE each time.
            trial.suggest_int(f"{method}_from", 0, self.blocks - 1)
            trial.suggest_int(f"{method}_to", 0, self.blocks - 1)

    def mitigations(self, choice: Mapping[str, Any]) -> tuple[Mitigation, ...]:
        """The settings that a choice stands for; none for the model as it is."""
        items = [self._item(choice, m) for m in self.space.methods if choice.get(f"use_{m}") == YES]
        decoder = choice["decoder"]
        settings: dict[str, Any] = {"type": decoder}
        if decoder in ("vcd", "icd"):
            settings |= {"alpha": _rounded(choice["contrast"]), "beta": _rounded(choice["plausible"])}
        if decoder == "dola":
            settings |= {"layers": choice["dola_layers"], "relative_top": _rounded(choice["plausible"])}
        return mitigations_of(items + ([settings] if decoder != "greedy" else []))

    def _item(self, choice: Mapping[str, Any], method: str) -> dict[str, Any]:
        item: dict[str, Any] = {"type": method}
        given = choice.get("mask_ratio", next(iter(self.directions), ""))
        match method:
            case "vti":
                item |= {"text": _rounded(choice["vti_text"]), "image": _rounded(choice["vti_image"])}
                item["directions"] = self.directions[given]
            case "steer":
                item |= {"strength": _rounded(choice["steer_strength"]), "directions": self.directions[given]}
            case "spin":
                item |= {"k": _rounded(choice["spin_k"]), "alpha": _rounded(choice["spin_alpha"])}
            case "pai":
                item["alpha"] = _rounded(choice["pai_alpha"])
        ends = sorted(choice[f"{method}_{end}"] for end in ("from", "to") if f"{method}_{end}" in choice)
        if ends and method in _STRETCHED:
            item["layers"] = tuple(range(ends[0], ends[1] + 1))
        return item

    def first(self) -> list[dict[str, Any]]:
        """Choices to try first, the model as it is and each method alone; the rest of them is drawn."""
        off: dict[str, Any] = {f"use_{method}": NO for method in self.space.methods}
        alone = [off | {f"use_{method}": YES, "decoder": "greedy"} for method in self.space.methods]
        decoders = [off | {"decoder": decoder} for decoder in self.space.decoders if decoder != "greedy"]
        return [off | {"decoder": "greedy"}, *alone, *decoders]


@dataclass(frozen=True, slots=True)
class SteeringTrial:
    """One finished trial; nan objectives where it failed."""

    trial_id: str
    choice: dict[str, Any]
    mitigations: tuple[str, ...]
    """As short texts; empty = the model as it is."""
    hallucination: float
    kept: float
    scores: dict[str, float] = field(default_factory=dict)
    """Every score of its benchmarks, by `benchmark.metric`."""
    elapsed_s: float = math.nan
    process: str = ""
    """Which process ran it: trials share the model that theirs has loaded."""
    error: str = ""

    @property
    def name(self) -> str:
        """What MLflow calls it."""
        return (
            f"{' + '.join(text.partition(':')[0] for text in self.mitigations) or 'greedy'} {self.trial_id}"
        )

    @property
    def lost(self) -> bool:
        """Whether it has nothing to compare."""
        return math.isnan(self.hallucination) or math.isnan(self.kept)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> SteeringTrial:
        numbers = {
            name: math.nan if value[name] is None else value[name]
            for name in ("hallucination", "kept", "elapsed_s")
        }
        scores = {name: math.nan if v is None else v for name, v in value["scores"].items()}
        return cls(**{**value, **numbers, "scores": scores, "mitigations": tuple(value["mitigations"])})


def objectives(scores: Mapping[str, float], settings: SteeringObjectives) -> tuple[float, float]:
    """(hallucination, kept) of `benchmark.metric` -> value. Raises ConfigError for one nobody measured."""
    missing = [name for name in (*settings.hallucination, *settings.kept) if name not in scores]
    if missing:
        raise ConfigError(expected=f"objectives among {', '.join(sorted(scores))}", got=", ".join(missing))
    return _mean(scores[n] for n in settings.hallucination), _mean(scores[n] for n in settings.kept)


def pareto(trials: Sequence[SteeringTrial]) -> list[SteeringTrial]:
    """Those that no other trial beats in both objectives, from the least hallucination up."""
    front: list[SteeringTrial] = []
    for trial in sorted((t for t in trials if not t.lost), key=lambda t: (t.hallucination, -t.kept)):
        if not front or trial.kept > front[-1].kept:
            front.append(trial)
    return front


def choose(
    trials: Sequence[SteeringTrial], baseline: SteeringTrial, *, margin: float
) -> SteeringTrial | None:
    """The trial with the least hallucination that keeps enough; None if none is below the baseline."""
    enough = [t for t in pareto(trials) if t.kept >= baseline.kept - margin - 1e-12]
    best = min(enough, key=lambda t: (t.hallucination, -t.kept), default=None)
    return best if best is not None and best.hallucination < baseline.hallucination else None


def baseline_of(trials: Sequence[SteeringTrial]) -> SteeringTrial | None:
    """The first trial of the model as it is."""
    return next((trial for trial in trials if not trial.mitigations and not trial.lost), None)


def _rounded(value: float) -> float:
    """Three significant digits: what a person would write, and what is run."""
    return float(f"{value:.3g}")


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return sum(found) / len(found)
