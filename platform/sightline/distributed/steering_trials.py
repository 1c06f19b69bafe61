"""The trials of a steering sweep on Ray Tune: proposals by Optuna, one loaded model a worker.

Models live in actors of their own, `resources.workers` of them, loaded at their first trial. A
trial takes a free one, has its choice judged there, and hands it back; mitigations leave a model
bit-equal behind. So a search of any length loads the model once for each worker.
"""

from __future__ import annotations

import math
import os
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sightline.config.evaluation import EvaluationConfig
from sightline.config.mitigations import to_text
from sightline.config.model import ModelConfig
from sightline.config.resources import ResourcesConfig
from sightline.config.sweep_steering import SteeringObjectives, SteeringSearch
from sightline.distributed.tracking import TrackedRun
from sightline.distributed.tuning import prepare, run_trials
from sightline.errors import DataError
from sightline.evaluation.predictions import Predict, PredictConfig
from sightline.evaluation.scoring import tally
from sightline.evaluation.steering_search import SteeringChoices, SteeringTrial, objectives
from sightline.records import Example

if TYPE_CHECKING:
    from sightline.models.vlm import Vlm


@dataclass(frozen=True, slots=True)
class SteeringTask:
    """Everything of a trial but its choice. The questions are those that the objectives need."""

    choices: SteeringChoices
    model: ModelConfig
    evaluation: EvaluationConfig
    objectives: SteeringObjectives
    lexicon: Mapping[str, str]


def search(
    task: SteeringTask,
    examples: Sequence[Example],
    settings: SteeringSearch,
    resources: ResourcesConfig,
    folder: Path,
    tracking: TrackedRun,
) -> list[SteeringTrial]:
    """Run the trials, or those that an earlier start left; `folder` keeps Ray Tune's snapshots.

    Raises StorageError if fewer trials came back than asked.
    """
    prepare()
    import ray
    from ray import tune
    from ray.util.queue import Queue

    from sightline.distributed.steering_watch import SteeringWatch

    holder = ray.remote(num_cpus=resources.cpus_per_worker, num_gpus=resources.gpus_per_worker)(Judge)
    judges = [holder.options(max_restarts=1).remote(task) for _ in range(resources.workers)]
    free = Queue(actor_options={"num_cpus": 0})
    free.put_nowait_batch(list(range(len(judges))))
    rows = ray.put([example.to_row() for example in examples])
    # The workers hold the resources. A trial asks for a byte, because Ray knows no trial without any.
    trainable = tune.with_resources(
        tune.with_parameters(run_trial, judges=judges, free=free, rows=rows), {"cpu": 0, "memory": 1}
    )
    watch = SteeringWatch(task.choices, tracking, settings.trials)
    results = run_trials(
        trainable,
        folder,
        watch,
        trials=settings.trials,
        # Unbounded, all proposals would be made before the first result is in.
        max_concurrent_trials=resources.workers,
        reuse_actors=True,  # a trial's own process does next to nothing
        search_alg=_optuna(task.choices, settings),
    )
    return [
        to_trial(task.choices, result.metrics or {}, result.config or {}, str(result.error or ""))
        for result in results
    ]


class Judge:
    """Answers and scores all questions under one choice after another, with one model. Knows no Ray."""

    def __init__(self, task: SteeringTask):
        self._task = task

    # Loaded with the first choice, not in `__init__`: an error there would reach the caller as
    # "the actor died", without its type.
    @cached_property
    def _vlm(self) -> Vlm:
        from sightline.models.vlm import Vlm

        return Vlm.of(self._task.model)

    def judge(self, choice: Mapping[str, Any], rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """The objectives, every score behind them, and what it took. `rows` are `Example.to_row()`."""
        task, started = self._task, time.monotonic()
        config = PredictConfig(task.model, task.evaluation, task.choices.mitigations(choice))
        predictions = Predict(config, self._vlm).predict([Example.from_row(row) for row in rows])
        tallies = tally(predictions, lexicon=task.lexicon, parser=task.evaluation.parser)
        scores = {
            f"{benchmark}.{metric}": ratio.value
            for benchmark, counts in tallies.items()
            for metric, ratio in counts.ratios.items()
        }
        hallucination, kept = objectives(scores, task.objectives)
        if math.isnan(hallucination) or math.isnan(kept):
            raise DataError(
                expected="defined objectives",
                got=f"hallucination {hallucination}, kept {kept} under {dict(choice)}",
                hint="judge on more examples",
            )
        return {
            "hallucination": hallucination,
            "kept": kept,
            "scores": scores,
            "elapsed_s": round(time.monotonic() - started, 2),
            "process": str(os.getpid()),
        }


def run_trial(choice: dict[str, Any], *, judges: Sequence[Any], free: Any, rows: Any) -> None:
    """Have the choice judged by whichever worker is free. Runs in Ray Tune's process of the trial."""
    import ray
    from ray import tune

    place = free.get()
    try:
        tune.report(ray.get(judges[place].judge.remote(choice, rows)))
    finally:
        free.put(place)


def to_trial(
    choices: SteeringChoices, metrics: Mapping[str, Any], choice: Mapping[str, Any], error: str
) -> SteeringTrial:
    """Our record of one of Ray Tune's trials, from its last report."""
    failed = bool(error) or "kept" not in metrics
    return SteeringTrial(
        trial_id=str(metrics.get("trial_id", "")),
        choice=dict(choice),
        mitigations=tuple(to_text(item) for item in choices.mitigations(choice)),
        hallucination=math.nan if failed else float(metrics["hallucination"]),
        kept=math.nan if failed else float(metrics["kept"]),
        scores={} if failed else dict(metrics["scores"]),
        elapsed_s=math.nan if failed else float(metrics["elapsed_s"]),
        process="" if failed else str(metrics["process"]),
        error=error or ("no report" if failed else ""),
    )


def _optuna(choices: SteeringChoices, settings: SteeringSearch) -> Any:
    import optuna
    from ray.tune.search.optuna import OptunaSearch

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with warnings.catch_warnings():
        # `group` lets TPE model each method by the trials that use it.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = optuna.samplers.TPESampler(
            multivariate=True, group=True, n_startup_trials=settings.random_trials, seed=settings.seed
        )
    return OptunaSearch(
        choices,
        metric=["hallucination", "kept"],
        mode=["min", "max"],
        points_to_evaluate=choices.first(),
        sampler=sampler,
    )
