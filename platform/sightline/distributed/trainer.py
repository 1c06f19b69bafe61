"""Start a training run on Ray Train and bring its result back.

`train` is all there is: it checks what can be checked before the first batch, writes the pairs
with their reference log-probabilities to the run's storage, and lets Ray Train start the workers
(`train_loop.py`), restart them after a loss, and keep the last checkpoints. The same run name in
the same root finds those checkpoints again, so a killed driver only needs to be started once more.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from sightline.config.dpo import DpoConfig
from sightline.config.zero import read_deepspeed
from sightline.distributed.reference_cache import Reference
from sightline.distributed.session import connect
from sightline.distributed.storage import Storage
from sightline.distributed.tracking import TrackedRun
from sightline.errors import ResourceError, SightlineError
from sightline.training.plan import Plan, accumulation_steps

PAIRS = "pairs.parquet"
_TIMEOUT_S = 1800
"""How long one rank may wait for the others in a collective."""


@dataclass(frozen=True, slots=True)
class Trained:
    """A finished training run."""

    model: str
    """Folder of the exported model or adapter."""
    history: list[dict[str, float]]
    """One entry a step: loss, its terms, rewards, margin, accuracy, learning rate, gradient norm."""
    seconds: float
    """Of the last attempt."""
    resumed_from: int
    """Step that the last attempt started after."""


def train(
    config: DpoConfig,
    reference: Reference,
    folder: str,
    *,
    identity: Mapping[str, str],
    tracking: TrackedRun | None = None,
) -> Trained:
    """Train on `reference.kept` and export the model to `folder`/model.

    `folder` must be reachable by every worker. Raises ConfigError for batches that cannot be cut,
    or settings that contradict the checkpoints in `folder`; ResourceError if the workers cannot be
    had; StorageError if `folder` cannot be written; what went wrong in a worker, otherwise.
    """
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    from sightline.distributed import train_loop

    resources, training = config.resources, config.training
    accumulation_steps(training.global_batch, micro_batch=training.micro_batch, world=resources.workers)
    storage = Storage.at(folder)
    task = train_loop.Task(
        config=config.model_dump(mode="json"),
        deepspeed=None if config.deepspeed is None else read_deepspeed(config.deepspeed),
        storage=storage,
        fingerprint=fingerprint(config, reference, identity),
        export_to=f"{storage.uri}/model",
        tracking=None if tracking is None else (tracking.uri, tracking.run_id),
    )
    storage.write_table(PAIRS, _table(reference))
    _reserve(config)
    per_worker = {"CPU": resources.cpus_per_worker}
    if resources.gpus_per_worker:
        per_worker["GPU"] = resources.gpus_per_worker
    on_gpu = resources.gpus_per_worker > 0
    trainer = TorchTrainer(
        train_loop.run,  # type: ignore[arg-type]  # Ray types it as returning nothing, and keeps what it returns
        train_loop_config={"task": task},
        torch_config=TorchConfig(backend="nccl" if on_gpu else "gloo", timeout_s=_TIMEOUT_S),
        scaling_config=ScalingConfig(
            num_workers=resources.workers, use_gpu=on_gpu, resources_per_worker=per_worker
        ),
        run_config=RunConfig(
            name="checkpoints",
            storage_path=storage.uri,
            failure_config=FailureConfig(max_failures=training.max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
        ),
    )
    outcome = _fit(trainer)
    return Trained(
        model=task.export_to,
        history=outcome["history"],
        seconds=outcome["seconds"],
        resumed_from=outcome["resumed_from"],
    )


def fingerprint(config: DpoConfig, reference: Reference, identity: Mapping[str, str]) -> dict[str, Any]:
    """What must stay equal when a run is resumed. Workers and micro-batch may change."""
    training = config.training
    free = {"micro_batch", "checkpoint_every", "max_failures", "forward", "gradient_checkpointing"}
    plan = Plan.of(
        len(reference.kept),
        global_batch=training.global_batch,
        epochs=training.epochs,
        max_steps=training.max_steps,
        seed=training.seed,
    )
    rows = json.dumps([pair.to_row() for pair in reference.kept], sort_keys=True, default=str)
    return {
        **{f"training.{k}": v for k, v in training.model_dump(mode="json").items() if k not in free},
        "lora": None if config.lora is None else config.lora.model_dump(mode="json"),
        "deepspeed": None if config.deepspeed is None else read_deepspeed(config.deepspeed),
        "model": dict(identity),
        "pairs": hashlib.sha256(rows.encode()).hexdigest()[:16],
        "steps": plan.steps,
    }


def read_task_table(storage: Storage) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """Rows of PreferencePair and the reference log-probabilities, as `train` wrote them."""
    table = storage.read_table(PAIRS)
    reference = {
        "chosen": table["reference_chosen"].to_numpy(),
        "rejected": table["reference_rejected"].to_numpy(),
    }
    return table.drop_columns(["reference_chosen", "reference_rejected"]).to_pylist(), reference


def _table(reference: Reference) -> pa.Table:
    table = pa.Table.from_pylist([pair.to_row() for pair in reference.kept])
    table = table.append_column("reference_chosen", pa.array(reference.chosen_N, pa.float64()))
    return table.append_column("reference_rejected", pa.array(reference.rejected_N, pa.float64()))


def _fit(trainer: Any) -> dict[str, Any]:
    """Run to the end. Our own errors come out as themselves, whatever Ray wrapped them in."""
    from ray.train.v2.api.exceptions import TrainingFailedError

    try:
        outcome = trainer.fit().return_value
    except TrainingFailedError as error:
        inner: BaseException | None = error
        while inner is not None and not isinstance(inner, SightlineError):
            inner = getattr(inner, "cause", None) or inner.__cause__
        if inner is not None:
            raise inner from error
        raise
    if "error" in outcome:
        raise outcome["error"]
    return outcome


def _reserve(config: DpoConfig) -> None:
    """See that the cluster can seat all workers at once, and soon; Ray Train would wait for ever."""
    import ray
    from ray.exceptions import GetTimeoutError
    from ray.util.placement_group import placement_group, remove_placement_group

    resources = config.resources
    connect(
        workers=resources.workers,
        cpus_per_worker=resources.cpus_per_worker,
        gpus_per_worker=resources.gpus_per_worker,
        address=resources.address,
    )
    bundle = {"CPU": resources.cpus_per_worker}
    if resources.gpus_per_worker:
        bundle["GPU"] = resources.gpus_per_worker
    group = placement_group([bundle] * resources.workers)
    try:
        ray.get(group.ready(), timeout=resources.schedule_timeout_s)
    except GetTimeoutError as error:
        raise ResourceError(
            expected=f"{resources.workers} workers of {bundle} within {resources.schedule_timeout_s:g} s",
            got=f"{ray.available_resources()} free",
            hint="wait for other jobs, ask for fewer workers, or raise resources.schedule_timeout_s",
        ) from error
    finally:
        remove_placement_group(group)
