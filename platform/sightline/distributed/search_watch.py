"""What a person sees of a running search: a line a trial, and a child run in MLflow.

Imported only where Ray is already running, because Ray Tune's callbacks are a class of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ray import tune

from sightline.distributed.progress import Progress
from sightline.distributed.sweeps import SearchData, to_trial
from sightline.distributed.tracking import TrackedRun
from sightline.probes.search import Trial, best_of


class SearchWatch(tune.Callback):
    """Called by Ray Tune, in the driver. A search that is restored brings its own along."""

    def __init__(self, data: SearchData, tracking: TrackedRun, total: int):
        self._data, self._tracking, self._total = data, tracking, total

    def setup(
        self, stop: Any = None, num_samples: Any = None, total_num_samples: Any = None, **_: Any
    ) -> None:
        self._progress = Progress("search", total=self._total, unit="trial")
        self._ended: list[Trial] = []

    def on_trial_complete(self, iteration: int, trials: Sequence[Any], trial: Any, **_: Any) -> None:
        self._tell(to_trial(self._data, trial.last_result, trial.config, ""))

    def on_trial_error(self, iteration: int, trials: Sequence[Any], trial: Any, **_: Any) -> None:
        """After the last retry."""
        self._tell(to_trial(self._data, trial.last_result, trial.config, "failed"))

    def _tell(self, trial: Trial) -> None:
        note_trial(self._tracking, trial)
        self._ended.append(trial)
        best = best_of(self._ended)
        facts = {"best validation AUROC": best.auroc} if best else {}
        self._progress.update(len(self._ended), facts)


def note_trial(tracking: TrackedRun, trial: Trial) -> None:
    """One trial as an MLflow child run; noting it twice changes nothing."""
    tracking.note(
        trial.name,
        params={"site": trial.site, **trial.choice, "end": trial.end},
        values={"valid/auroc": trial.auroc, "epochs": float(len(trial.curve))},
        curves={"valid/auroc_by_epoch": trial.curve},
        status="FAILED" if trial.error else "FINISHED",
    )
