"""One MLflow run for one Sightline run, however often it is started again.

The driver finds the run by its tag `sightline.run_key`, or creates it, hands its id to the
workers, and closes it. Rank 0 only adds values. The tracking URI is absolute, because Ray's
workers stand in another folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

RUN_KEY = "sightline.run_key"
_MAX_PARAM = 500
_BATCH = 100
"""MLflow takes at most this many parameters a request."""


@dataclass(frozen=True, slots=True)
class TrackedRun:
    """Enough to reach the MLflow run from any process. Picklable."""

    uri: str
    run_id: str

    def log(self, values: Mapping[str, float], *, step: int) -> None:
        """Add one value to each named series."""
        from mlflow.entities import Metric

        now_ms = int(time.time() * 1000)
        metrics = [Metric(name, float(value), now_ms, step) for name, value in values.items()]
        self._client.log_batch(self.run_id, metrics=metrics)

    def attach(self, path: str | os.PathLike[str]) -> None:
        """Upload a file, such as the report."""
        self._client.log_artifact(self.run_id, os.fspath(path))

    def close(self, status: str) -> None:
        self._client.set_terminated(self.run_id, status)

    @property
    def _client(self) -> Any:
        return _client(self.uri)


@contextmanager
def tracked(uri: str, *, experiment: str, run_key: str, params: Mapping[str, Any]) -> Iterator[TrackedRun]:
    """The one run of `run_key`: RUNNING inside, FINISHED or FAILED behind.

    `run_key` names the run folder (absolute), so that the same run name in another root is
    another run. `params` is nested; its leaves become dotted MLflow parameters.
    """
    run = _find_or_create(uri, experiment, run_key, params)
    status = "FAILED"
    try:
        yield run
        status = "FINISHED"
    finally:
        run.close(status)


def _find_or_create(uri: str, experiment: str, run_key: str, params: Mapping[str, Any]) -> TrackedRun:
    from mlflow.entities import Param

    client = _client(uri)
    found = client.get_experiment_by_name(experiment)
    experiment_id = found.experiment_id if found else client.create_experiment(experiment)
    digest = hashlib.sha256(run_key.encode()).hexdigest()  # a path may hold quotes, which the filter cannot
    runs = client.search_runs([experiment_id], f"tags.`{RUN_KEY}` = '{digest}'", max_results=1)
    if runs:
        run_id = runs[0].info.run_id
        client.update_run(run_id, status="RUNNING")
        return TrackedRun(uri, run_id)
    name = os.path.basename(run_key)
    tags = {RUN_KEY: digest, "sightline.folder": run_key}
    run_id = client.create_run(experiment_id, tags=tags, run_name=name).info.run_id
    leaves = [Param(key, str(value)[:_MAX_PARAM]) for key, value in _leaves(params)]
    for start in range(0, len(leaves), _BATCH):
        client.log_batch(run_id, params=leaves[start : start + _BATCH])
    return TrackedRun(uri, run_id)


def _client(uri: str) -> Any:
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri)


def _leaves(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, inner in value.items():
        if isinstance(inner, Mapping):
            yield from _leaves(inner, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", json.dumps(inner) if isinstance(inner, list | tuple) else inner
