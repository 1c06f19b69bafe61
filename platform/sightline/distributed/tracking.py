"""One MLflow run for one Sightline run, however often it is started again; its pieces below it.

The driver finds the run by its tag `sightline.run_key`, or creates it, hands its id to the
workers, and closes it. Rank 0 only adds values. The tracking URI is absolute, because Ray's
workers stand in another folder.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

RUN_KEY = "sightline.run_key"
_MAX_PARAM = 500
_BATCH, _METRICS = 100, 1000
"""MLflow takes at most this many parameters, and metrics, a request."""
_PARENT = "mlflow.parentRunId"
"""The tag by which MLflow's pages show a run below another."""


@dataclass(frozen=True, slots=True)
class TrackedRun:
    """Enough to reach the MLflow run from any process. Picklable."""

    uri: str
    run_id: str

    def log(self, values: Mapping[str, float], *, step: int) -> None:
        """Add one value to each named series."""
        self.add((name, step, value) for name, value in values.items())

    def attach(self, path: str | os.PathLike[str]) -> None:
        """Upload a file, such as the report."""
        self._client.log_artifact(self.run_id, os.fspath(path))

    def note(
        self,
        name: str,
        *,
        params: Mapping[str, Any],
        values: Mapping[str, float],
        curves: Mapping[str, Sequence[float]] | None = None,
        status: str = "FINISHED",
    ) -> None:
        """A finished piece of this run, as a child run of that name; noted before, it stays as it is.

        `curves` are series by step from 1. What is not finite is left out.
        """
        parent = self._client.get_run(self.run_id)
        child = _find_or_create(
            self.uri,
            parent.info.experiment_id,
            run_key=f"{self.run_id}/{name}",
            name=name,
            params=params,
            tags={_PARENT: self.run_id},
        )
        if child.status in ("FINISHED", "FAILED"):
            return
        points = [(key, 0, value) for key, value in values.items()]
        for key, curve in (curves or {}).items():
            points += [(key, step, value) for step, value in enumerate(curve, start=1)]
        child.add(point for point in points if math.isfinite(point[2]))
        child.close(status)

    def add(self, points: Iterable[tuple[str, int, float]]) -> None:
        """Many (series, step, value) at once."""
        from mlflow.entities import Metric

        now_ms = int(time.time() * 1000)
        metrics = [Metric(name, float(value), now_ms, step) for name, step, value in points]
        for start in range(0, len(metrics), _METRICS):
            self._client.log_batch(self.run_id, metrics=metrics[start : start + _METRICS])

    @property
    def status(self) -> str:
        """MLflow's word: RUNNING, FINISHED, FAILED, ..."""
        return str(self._client.get_run(self.run_id).info.status)

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
    client = _client(uri)
    found = client.get_experiment_by_name(experiment)
    experiment_id = found.experiment_id if found else client.create_experiment(experiment)
    run = _find_or_create(
        uri,
        experiment_id,
        run_key=run_key,
        name=os.path.basename(run_key),
        params=params,
        tags={"sightline.folder": run_key},
    )
    client.update_run(run.run_id, status="RUNNING")
    status = "FAILED"
    try:
        yield run
        status = "FINISHED"
    finally:
        run.close(status)


def _find_or_create(
    uri: str,
    experiment_id: str,
    *,
    run_key: str,
    name: str,
    params: Mapping[str, Any],
    tags: Mapping[str, str],
) -> TrackedRun:
    """The run with that key in the experiment; a new one is RUNNING."""
    from mlflow.entities import Param

    client = _client(uri)
    digest = hashlib.sha256(run_key.encode()).hexdigest()  # a path may hold quotes, which the filter cannot
    runs = client.search_runs([experiment_id], f"tags.`{RUN_KEY}` = '{digest}'", max_results=1)
    if runs:
        return TrackedRun(uri, runs[0].info.run_id)
    run_id = client.create_run(experiment_id, tags={RUN_KEY: digest, **tags}, run_name=name).info.run_id
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
