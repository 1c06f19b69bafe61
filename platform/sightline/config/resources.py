"""What a job asks of the cluster."""

from __future__ import annotations

from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt

from sightline.config.base import Frozen


class ResourcesConfig(Frozen):
    """Ray's share: how many workers, and what each holds."""

    address: str | None = None
    """Ray cluster to join; null = RAY_ADDRESS if set, else a cluster of this machine only."""
    workers: PositiveInt = 1
    """Processes that share the work, in mining, scoring and training alike."""
    cpus_per_worker: PositiveFloat = 1
    """Logical CPUs one worker reserves."""
    gpus_per_worker: NonNegativeFloat = 0
    """GPUs one worker reserves; 0 = run on the CPU."""
    schedule_timeout_s: PositiveFloat = 300
    """Give up when the cluster has not provided the workers after this long."""
