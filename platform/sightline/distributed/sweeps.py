"""A search on Ray Tune: Optuna's TPE proposes, ASHA stops what falls behind, MLflow sees each trial.

Features reach the trials through Ray's object store: put there once a site, read in place by
every trial on the machine (a standardised or bf16 head copies its own site). They hold the rows
to learn from and to choose by, never the test's.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sightline.config.probing import ProbeSettings
from sightline.config.resources import ResourcesConfig
from sightline.config.sweep_probe import SearchSettings
from sightline.distributed.tracking import TrackedRun
from sightline.distributed.tuning import prepare, run_trials
from sightline.probes.bank import train_bank
from sightline.probes.epochs import Epoch
from sightline.probes.search import Course, End, SearchSpace, Trial


@dataclass(frozen=True, slots=True)
class SearchData:
    """Everything of a trial but its features. Rows: those to learn from, then those to choose by."""

    space: SearchSpace
    base: ProbeSettings
    labels_N: npt.NDArray[np.int64]
    train_rows: int
    seed: int
    device: str


def search(
    data: SearchData,
    features: Mapping[str, npt.NDArray[np.float32]],
    settings: SearchSettings,
    resources: ResourcesConfig,
    folder: Path,
    tracking: TrackedRun,
) -> list[Trial]:
    """Run the trials, or those that an earlier start left; `folder` keeps Ray Tune's snapshots.

    `features` maps sites to (N, D). Raises StorageError if fewer trials came back than asked.
    """
    prepare()
    import ray
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler

    from sightline.distributed.search_watch import SearchWatch

    references = {site: ray.put(features_ND) for site, features_ND in features.items()}
    trainable = tune.with_resources(
        tune.with_parameters(run_trial, features=references, data=data),
        {"cpu": resources.cpus_per_worker, "gpu": resources.gpus_per_worker},
    )
    watch = SearchWatch(data, tracking, settings.trials)
    results = run_trials(
        trainable,
        folder,
        watch,
        trials=settings.trials,
        metric="auroc",
        mode="max",
        # Unbounded, all proposals would be made before the first result is in.
        max_concurrent_trials=resources.workers,
        search_alg=_optuna(data.space, settings),
        scheduler=ASHAScheduler(
            time_attr="epoch",
            max_t=data.base.epochs,
            grace_period=settings.grace_epochs,
            reduction_factor=settings.reduction,
        ),
    )
    return [
        to_trial(data, result.metrics, result.config or {}, str(result.error or "")) for result in results
    ]


def run_trial(choice: dict[str, Any], *, features: Mapping[str, Any], data: SearchData) -> None:
    """Train the chosen probe and report each epoch. Runs in Ray Tune's process of the trial."""
    import ray
    from ray import tune

    # What Ray shares is read-only, as it should be; nothing writes into the features.
    warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
    site, settings = data.space.site(choice), data.space.settings(choice, data.base)
    rows = np.arange(len(data.labels_N))
    course = Course()

    def tell(_: tuple[str, int], epoch: Epoch) -> None:
        course.add(epoch)
        tune.report(_metrics(course))

    train_bank(
        {site: ray.get(features[site])},
        data.labels_N,
        rows[: data.train_rows],
        rows[data.train_rows :],
        settings,
        seeds=(data.seed,),
        device=data.device,
        on_epoch=tell,
    )
    tune.report(_metrics(course) | {"ended": 1})


def to_trial(data: SearchData, metrics: Mapping[str, Any], choice: Mapping[str, Any], error: str) -> Trial:
    """Our record of one of Ray Tune's trials, from its last report."""
    curve = tuple(metrics.get("curve", ()))
    end: End = "overtaken"
    if error or not curve:
        end = "failed"
    elif len(curve) >= data.base.epochs:
        end = "epochs"
    elif metrics.get("ended"):
        end = "patience"
    return Trial(
        trial_id=str(metrics.get("trial_id", "")),
        choice=dict(choice),
        site=data.space.site(choice),
        auroc=float("nan") if end == "failed" else curve[-1],
        curve=curve,
        end=end,
        error=error,
    )


def _metrics(course: Course) -> dict[str, Any]:
    """`curve` is all epochs so far: Tune keeps only the last report of a trial."""
    return {"auroc": course.kept[-1], "epoch": len(course.kept), "curve": list(course.kept)}


def _optuna(space: SearchSpace, settings: SearchSettings) -> Any:
    import optuna
    from ray.tune.search.optuna import OptunaSearch

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with warnings.catch_warnings():
        # `group` lets TPE model MLPs and linear probes, whose settings differ, each by itself.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = optuna.samplers.TPESampler(
            multivariate=True, group=True, n_startup_trials=settings.random_trials, seed=settings.seed
        )
    return OptunaSearch(space, metric="auroc", mode="max", sampler=sampler)
