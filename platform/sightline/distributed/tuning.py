"""Ray Tune as every search of ours runs it: begun afresh or gone on with, and counted.

What Ray leaves silent is checked here. A search that was killed before its first snapshot
restores to one with a single trial and no error, so it is begun afresh; Ctrl-C would return
half a search as if it were whole, so Tune's handler is off; and the trials are counted.
"""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path
from typing import Any

from sightline.errors import StorageError

_ENVIRONMENT = {
    "RAY_AIR_NEW_OUTPUT": "0",  # no tables; a watch says one line a trial
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # no CSV, JSON and TensorBoard files a trial
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "2",  # a killed search repeats no more than this
}
"""What Ray Tune is to do and to leave."""


def prepare() -> None:
    """Tell Ray Tune so, before it is imported."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    # It warns of every trial that has none of the files which we have told it not to write.
    logging.getLogger("ray.tune.analysis.experiment_analysis").setLevel(logging.ERROR)


def run_trials(trainable: Any, folder: Path, watch: Any, *, trials: int, **tune_config: Any) -> list[Any]:
    """Ray Tune's results of `trials` trials, those included that an earlier start left in `folder`.

    `tune_config` goes to `tune.TuneConfig`. Raises StorageError if fewer trials ended than asked.
    """
    results = list(_tuner(trainable, folder, watch, num_samples=trials, **tune_config).fit())
    ended = sum(bool(result.error) or result.metrics.get("done", False) for result in results)
    if ended < trials:
        raise StorageError(
            expected=f"{trials} finished trials",
            got=str(ended),
            hint="start the same command again to go on",
        )
    return results


def _tuner(trainable: Any, folder: Path, watch: Any, **tune_config: Any) -> Any:
    """A fresh search, or the one that a killed start has left in `folder`."""
    from ray import tune

    if any(folder.glob("experiment_state-*.json")):
        return tune.Tuner.restore(str(folder), trainable, resume_unfinished=True, restart_errored=True)
    shutil.rmtree(folder, ignore_errors=True)
    return tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(trial_dirname_creator=_trial_id, **tune_config),
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
