"""The trials of a steering sweep on Ray Tune: proposals by Optuna, one loaded model a worker.

Ray Tune hands the process of a finished trial to the next one (`reuse_actors`), and the model
stays loaded in that process; a trial only attaches its own mitigations and leaves the model
bit-equal behind. So a search of any length loads the model once for each worker.

What Ray leaves silent is checked as in `sweeps`: a start that was killed before its first
snapshot begins afresh, Ctrl-C ends the search with an error, and the trials are counted.
"""

from __future__ import annotations

import logging
import math
import os
import shutil
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sightline.config.evaluation import EvaluationConfig
from sightline.config.mitigations import to_text
from sightline.config.model import ModelConfig
from sightline.config.resources import ResourcesConfig
from sightline.config.sweep_steering import SteeringObjectives, SteeringSearch
from sightline.distributed.sweeps import ENVIRONMENT
from sightline.distributed.tracking import TrackedRun
from sightline.errors import DataError, StorageError
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
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from ray import tune

    from sightline.distributed.steering_watch import SteeringWatch

    trainable = tune.with_resources(
        tune.with_parameters(run_trial, task=task, rows=[example.to_row() for example in examples]),
        {"cpu": resources.cpus_per_worker, "gpu": resources.gpus_per_worker},
    )
    # It warns of every trial that has none of the files which we have told it not to write.
    logging.getLogger("ray.tune.analysis.experiment_analysis").setLevel(logging.ERROR)
    watch = SteeringWatch(task.choices, tracking, settings.trials)
    results = list(_tuner(trainable, task, settings, resources, folder, watch).fit())
    ended = sum(bool(result.error) or result.metrics.get("done", False) for result in results)
    if ended < settings.trials:
        raise StorageError(
            expected=f"{settings.trials} finished trials",
            got=str(ended),
            hint="start the same command again to go on",
        )
    return [
        to_trial(task.choices, result.metrics or {}, result.config or {}, str(result.error or ""))
        for result in results
    ]


def run_trial(choice: dict[str, Any], *, task: SteeringTask, rows: Sequence[dict[str, Any]]) -> None:
    """Answer all questions under the chosen mitigations, score, report. Runs in a worker's process."""
    from ray import tune

    started = time.monotonic()
    config = PredictConfig(task.model, task.evaluation, task.choices.mitigations(choice))
    predictions = Predict(config, _loaded(task.model)).predict([Example.from_row(row) for row in rows])
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
            got=f"hallucination {hallucination}, kept {kept} under {choice}",
            hint="judge on more examples",
        )
    tune.report(
        {
            "hallucination": hallucination,
            "kept": kept,
            "scores": scores,
            "elapsed_s": round(time.monotonic() - started, 2),
            "process": str(os.getpid()),
        }
    )


@lru_cache(maxsize=1)
def _loaded(model: ModelConfig) -> Vlm:
    """The model of this process: loaded for its first trial, kept for all that follow."""
    from sightline.models.vlm import Vlm

    return Vlm.of(model)


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


def _tuner(
    trainable: Any,
    task: SteeringTask,
    settings: SteeringSearch,
    resources: ResourcesConfig,
    folder: Path,
    watch: Any,
) -> Any:
    """A fresh search, or the one that a killed start has left in `folder`."""
    from ray import tune

    if any(folder.glob("experiment_state-*.json")):
        return tune.Tuner.restore(str(folder), trainable, resume_unfinished=True, restart_errored=True)
    shutil.rmtree(folder, ignore_errors=True)
    return tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            num_samples=settings.trials,
            # Unbounded, all proposals would be made before the first result is in.
            max_concurrent_trials=resources.workers,
            reuse_actors=True,
            trial_dirname_creator=_trial_id,
            search_alg=_optuna(task.choices, settings),
        ),
        run_config=tune.RunConfig(
            name=folder.name,
            storage_path=str(folder.parent),
            failure_config=tune.FailureConfig(max_failures=1),
            callbacks=[watch],
            verbose=0,
        ),
    )


def _trial_id(trial: Any) -> str:
    return str(trial.trial_id)


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
