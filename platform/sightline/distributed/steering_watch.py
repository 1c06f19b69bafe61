"""What a person sees of a running steering sweep: a line a trial, and a child run in MLflow.

Imported only where Ray is already running, because Ray Tune's callbacks are a class of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ray import tune

from sightline.distributed.progress import Progress
from sightline.distributed.steering_trials import to_trial
from sightline.distributed.tracking import TrackedRun
from sightline.evaluation.steering_search import SteeringChoices, SteeringTrial


class SteeringWatch(tune.Callback):
    """Called by Ray Tune, in the driver. A search that is restored brings its own along."""

    def __init__(self, choices: SteeringChoices, tracking: TrackedRun, total: int):
        self._choices, self._tracking, self._total = choices, tracking, total

    def setup(
        self, stop: Any = None, num_samples: Any = None, total_num_samples: Any = None, **_: Any
    ) -> None:
        self._progress = Progress("search", total=self._total, unit="trial")
        self._ended: list[SteeringTrial] = []

    def on_trial_complete(self, iteration: int, trials: Sequence[Any], trial: Any, **_: Any) -> None:
        self._tell(to_trial(self._choices, trial.last_result, trial.config, ""))

    def on_trial_error(self, iteration: int, trials: Sequence[Any], trial: Any, **_: Any) -> None:
        """After the last retry."""
        self._tell(to_trial(self._choices, trial.last_result, trial.config, "failed"))

    def _tell(self, trial: SteeringTrial) -> None:
        note_trial(self._tracking, trial)
        self._ended.append(trial)
        sound = [one.hallucination for one in self._ended if not one.lost]
        self._progress.update(len(self._ended), {"least hallucination": min(sound)} if sound else {})


def note_trial(tracking: TrackedRun, trial: SteeringTrial) -> None:
    """One trial as an MLflow child run; noting it twice changes nothing."""
    values = {"hallucination": trial.hallucination, "kept": trial.kept, "elapsed_s": trial.elapsed_s}
    tracking.note(
        trial.name,
        params={"mitigations": " + ".join(trial.mitigations) or "greedy", **trial.choice},
        values=values | {name.replace(".", "/"): value for name, value in trial.scores.items()},
        status="FAILED" if trial.error else "FINISHED",
    )
