"""Start or join the Ray cluster a job runs on, and refuse what it can never give.

On a laptop this starts a private Ray inside the process; under `ray job submit`, or
with `RAY_ADDRESS` set, it joins that cluster. The work is the same either way. This
file knows nothing of models or data.
"""

from __future__ import annotations

import logging
import os
import sys
from dataclasses import dataclass
from typing import Any

from sightline.config.resources import ResourcesConfig
from sightline.errors import ResourceError

MIN_LOCAL_CPUS = 8
"""Logical CPUs of a private Ray. Ray Data's pipelines can wait for each other for ever on fewer."""

_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
"""Set where the caller has not: no telemetry, no warnings about things we have decided."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """What we are connected to. `cpus` and `gpus` are what it may grow to, not what is free."""

    address: str
    local: bool
    cpus: float
    gpus: float


def connect(
    *,
    workers: int = 1,
    cpus_per_worker: float = 1.0,
    gpus_per_worker: float = 0.0,
    address: str | None = None,
    dashboard: bool = False,
) -> Cluster:
    """Join the cluster at `address` (default: RAY_ADDRESS), or start a private one.

    A second call in the same process reuses the first connection. Raises
    `ResourceError` if `workers` of that size can never be scheduled together,
    because Ray itself would wait for them for ever.
    """
    address = address or os.environ.get("RAY_ADDRESS") or None
    _set_environment(address)
    import ray

    if not ray.is_initialized():
        ray.init(**_arguments(address, dashboard))
        _quiet()
    capacity = _capacity()
    cluster = Cluster(
        address=ray.get_runtime_context().gcs_address,
        local=address is None,
        cpus=capacity.get("CPU", 0.0),
        gpus=capacity.get("GPU", 0.0),
    )
    require(cluster, workers=workers, cpus_per_worker=cpus_per_worker, gpus_per_worker=gpus_per_worker)
    return cluster


def connect_for(resources: ResourcesConfig, *, dashboard: bool = False) -> Cluster:
    """`connect` as a job's `resources:` section asks."""
    return connect(
        workers=resources.workers,
        cpus_per_worker=resources.cpus_per_worker,
        gpus_per_worker=resources.gpus_per_worker,
        address=resources.address,
        dashboard=dashboard,
    )


def disconnect() -> None:
    """Leave the cluster; a private one stops."""
    import ray

    ray.shutdown()


def require(
    cluster: Cluster, *, workers: int, cpus_per_worker: float = 1.0, gpus_per_worker: float = 0.0
) -> None:
    """Raise `ResourceError` if the cluster, grown to its limit, is too small."""
    demands = (
        ("GPUs", workers * gpus_per_worker, cluster.gpus, "resources.gpus_per_worker"),
        ("CPUs", workers * cpus_per_worker, cluster.cpus, "resources.cpus_per_worker"),
    )
    for kind, asked, available, setting in demands:
        if asked > available:
            raise ResourceError(
                expected=f"at most {available:g} {kind}, all that the cluster at {cluster.address} can have",
                got=f"a request for {asked:g} ({workers} workers)",
                hint=f"lower resources.workers or {setting}, or point RAY_ADDRESS to a larger cluster",
            )


def _set_environment(address: str | None) -> None:
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    # Said aloud because Ray's default changed in 2.60: the ports of a private cluster may be
    # reachable from outside, so only holders of the user's own token (~/.ray) may use them.
    # Ray reads this when it is imported; set later, its processes would disagree and die.
    if address is None and "ray" not in sys.modules:
        os.environ.setdefault("RAY_AUTH_MODE", "token")


def _arguments(address: str | None, dashboard: bool) -> dict[str, Any]:
    shared = {"log_to_driver": True, "logging_level": logging.WARNING}
    if address is not None:
        return {"address": address, **shared}
    return {
        "address": "local",
        "num_cpus": max(MIN_LOCAL_CPUS, os.cpu_count() or 1),
        "include_dashboard": dashboard,
        **shared,
    }


def _capacity() -> dict[str, float]:
    """Total resources: the present nodes, or the autoscaler's limit where that is larger."""
    import ray
    from ray._private.state import state

    capacity = dict(ray.cluster_resources())
    # The only place where Ray tells how far an autoscaling cluster may grow.
    for name, limit in (state.get_max_resources_from_cluster_config() or {}).items():
        capacity[name] = max(capacity.get(name, 0.0), float(limit))
    return capacity


def _quiet() -> None:
    """One progress line of our own instead of Ray Data's boards and plans."""
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    # Errors keep their type on the way from a worker to the caller.
    context.raise_original_map_exception = True
    for name in ("ray.data", "ray.tune", "ray.train"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # It would tell the user how to switch the boards back on.
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)
