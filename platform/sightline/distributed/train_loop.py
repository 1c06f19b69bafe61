"""What every training worker does: load, resume, step, report, export.

Runs inside Ray Train (`distributed/trainer.py` starts it). Everything it needs comes as one plain
dictionary, because the workers stand in other processes, folders and machines.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from sightline.config.dpo import DpoConfig
from sightline.config.training import TrainingConfig
from sightline.config.zero import with_precision
from sightline.distributed import checkpoints
from sightline.distributed.engines import Engine, EngineSettings, build
from sightline.distributed.progress import Progress, speak
from sightline.distributed.storage import Storage
from sightline.distributed.tracking import TrackedRun
from sightline.errors import ModelError, SightlineError
from sightline.records import PreferencePair
from sightline.training import losses
from sightline.training.collate import PairBatch, PairCollator
from sightline.training.plan import Plan, accumulation_steps, learning_rate

LOGGER = logging.getLogger("sightline")


@dataclass(frozen=True, slots=True)
class Task:
    """The job of all workers."""

    config: dict[str, Any]
    """A dumped DpoConfig."""
    deepspeed: dict[str, Any] | None
    storage: Storage
    """Holds the pairs with their reference log-probabilities."""
    fingerprint: dict[str, Any]
    export_to: str
    tracking: tuple[str, str] | None
    """MLflow's URI and run id."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where this worker stands among the others."""

    rank: int
    world: int
    device: torch.device


def run(config: dict[str, Any]) -> dict[str, Any]:
    """The training function handed to Ray. Returns rank 0's result.

    An error of our own is returned, not raised: all ranks meet it at the same step, and starting
    the workers again would only meet it again.
    """
    speak()
    _quiet()
    task: Task = config["task"]
    try:
        return _Training(task, _place()).run()
    except SightlineError as error:
        LOGGER.error("%s: %s", type(error).__name__, error)
        return {"error": error}


class _Training:
    """One attempt, from loading to export."""

    def __init__(self, task: Task, place: Place):
        from sightline.distributed.policy import load_policy
        from sightline.distributed.trainer import read_task_table

        self._task, self._place = task, place
        self._config = config = DpoConfig.model_validate(task.config)
        training = config.training
        rows, self._reference = read_task_table(task.storage)
        self._pairs = [PreferencePair.from_row(row) for row in rows]
        self._plan = Plan.of(
            len(self._pairs),
            global_batch=training.global_batch,
            epochs=training.epochs,
            max_steps=training.max_steps,
            seed=training.seed,
        )
        accumulation = accumulation_steps(
            training.global_batch, micro_batch=training.micro_batch, world=place.world
        )
        bf16 = training.bf16(place.device.type)
        deepspeed = None if task.deepspeed is None else with_precision(task.deepspeed, bf16=bf16)
        self._settings = EngineSettings(
            global_batch=training.global_batch,
            micro_batch=training.micro_batch,
            accumulation=accumulation,
            weight_decay=training.weight_decay,
            max_grad_norm=training.max_grad_norm,
            autocast_bf16=bf16 and deepspeed is None,
            deepspeed=deepspeed,
        )
        self._policy = load_policy(config, device=place.device, deepspeed=deepspeed)
        self._collator = PairCollator(self._policy.vlm, self._policy.forward.mode)
        self._history: list[dict[str, float]] = []

    def run(self) -> dict[str, Any]:
        training = self._config.training
        engine, start = self._resume()
        self._policy.forward.train()
        progress = Progress("training", total=self._plan.steps, unit="step", done=start)
        started = time.monotonic()
        for step, micro_batches in self._batches(start):
            torch.manual_seed(hash((training.seed, step, self._place.rank)) % 2**31)
            values = self._step(engine, step, micro_batches)
            self._note(values, step, progress)
            finished = step + 1
            if finished % training.checkpoint_every == 0 or finished == self._plan.steps:
                self._checkpoint(engine, finished, values)
        self._export(engine)
        return {
            "history": self._history,
            "steps": self._plan.steps,
            "resumed_from": start,
            "seconds": time.monotonic() - started,
        }

    def _resume(self) -> tuple[Engine, int]:
        """The engine, with the state of the last checkpoint if there is one, and the next step."""
        from dataclasses import replace

        module = self._policy.forward
        with checkpoints.latest() as found:
            if found is None:
                return build(module, self._settings), 0
            folder, meta = found
            checkpoints.check_same_run(meta, self._task.fingerprint)
            self._history = list(meta.history)
            LOGGER.info("training: resuming after step %d", meta.step)
            if meta.world_size == self._place.world or self._task.deepspeed is None:
                engine = build(module, self._settings)
                engine.load(folder)
                return engine, meta.step
            with checkpoints.universal(folder, zero_stage=meta.zero_stage) as converted:
                engine = build(module, replace(self._settings, from_universal=True))
                engine.load(converted)
            return engine, meta.step

    def _batches(self, start: int) -> Iterator[tuple[int, Iterator[PairBatch]]]:
        """(step, its micro-batches); the next one is prepared while the model works."""
        place, training = self._place, self._config.training
        shares = [
            (step, indices)
            for step in range(start, self._plan.steps)
            for indices in self._plan.share(
                step, rank=place.rank, world=place.world, micro_batch=training.micro_batch
            )
        ]
        per_step = self._settings.accumulation
        with ThreadPoolExecutor(1) as pool:
            ahead = pool.submit(self._collate, shares[0][1]) if shares else None

            def micro_batches(first: int) -> Iterator[PairBatch]:
                nonlocal ahead
                for i in range(first, first + per_step):
                    assert ahead is not None  # there is one share for every micro-batch
                    batch = ahead.result()
                    ahead = pool.submit(self._collate, shares[i + 1][1]) if i + 1 < len(shares) else None
                    yield batch.to(place.device)

            for first in range(0, len(shares), per_step):
                yield shares[first][0], micro_batches(first)

    def _collate(self, indices: np.ndarray) -> PairBatch:
        reference = {side: values[indices] for side, values in self._reference.items()}
        return self._collator([self._pairs[i] for i in indices], reference)

    def _step(self, engine: Engine, step: int, micro_batches: Iterator[PairBatch]) -> dict[str, float]:
        """One optimiser step. Returns the means over the global batch."""
        training = self._config.training
        lr = learning_rate(
            step,
            steps=self._plan.steps,
            peak=training.lr,
            warmup_ratio=training.warmup_ratio,
            schedule=training.schedule,
        )
        sums: dict[str, torch.Tensor] = {}
        for batch in micro_batches:
            loss, seen = pair_loss(engine(batch), batch, training)
            engine.backward(loss)
            for name, value in {"loss": loss.detach(), **seen}.items():
                sums[name] = sums.get(name, torch.zeros((), device=loss.device)) + value.float()
        values = self._mean(sums)
        if not math.isfinite(values["loss"]):
            raise ModelError(
                expected="a finite loss",
                got=f"{values['loss']} at step {step + 1}",
                hint="lower training.lr, or train in float32 (training.precision=float32)",
            )
        return values | {"lr": lr, "grad_norm": engine.step(lr)}

    def _mean(self, sums: dict[str, torch.Tensor]) -> dict[str, float]:
        flat = torch.stack(list(sums.values())) / (self._settings.accumulation * self._place.world)
        if self._place.world > 1:
            dist.all_reduce(flat)
        return dict(zip(sums, flat.tolist(), strict=True))

    def _note(self, values: dict[str, float], step: int, progress: Progress) -> None:
        self._history.append({"step": step + 1, **values})
        if self._place.rank:
            return
        progress.update(step + 1, {"loss": values["loss"], "margin": values["margin"]})
        if self._task.tracking:
            finite = {name: value for name, value in values.items() if math.isfinite(value)}
            TrackedRun(*self._task.tracking).log(finite, step=step + 1)

    def _checkpoint(self, engine: Engine, finished: int, values: dict[str, float]) -> None:
        meta = checkpoints.Meta(
            step=finished,
            world_size=self._place.world,
            zero_stage=self._settings.zero_stage,
            fingerprint=self._task.fingerprint,
            history=self._history,
        )
        checkpoints.report(engine, meta, values, rank=self._place.rank)

    def _export(self, engine: Engine) -> None:
        weights = engine.weights()
        if weights is not None:
            self._policy.save(self._task.export_to, weights)
        if dist.is_initialized():
            dist.barrier()


def pair_loss(
    logprob_2N: torch.Tensor, batch: PairBatch, training: TrainingConfig
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The loss of a micro-batch (mean over its pairs) and the means of what is watched."""
    policy = batch.policy(logprob_2N)
    terms = losses.terms(
        policy,
        batch.reference,
        kind=training.loss,
        beta=training.beta,
        label_smoothing=training.label_smoothing,
        length_normalized=training.length_normalized,
    )
    loss = losses.total(terms, {"preference": 1.0, "sft": training.sft_weight}, batch.weight_N)
    seen = {**terms, **losses.statistics(policy, batch.reference, beta=training.beta)}
    return loss, {name: value.detach().mean() for name, value in seen.items()}


def _place() -> Place:
    import ray.train
    from ray.train.torch import get_device

    context = ray.train.get_context()
    device = get_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    else:
        os.environ["DS_ACCELERATOR"] = "cpu"  # libraries that find DeepSpeed would let it look for CUDA
        torch.set_num_threads(max(1, int(os.environ.get("OMP_NUM_THREADS", "1"))))
    return Place(context.get_world_rank(), context.get_world_size(), device)


def _quiet() -> None:
    """Our own progress lines instead of the libraries' bars and reports."""
    import transformers
    from ray.train.v2._internal.execution import context

    # Ray 2.60 names this logger by its file, so the level of "ray.train" does not reach it.
    for name in ("ray.train", context.__file__):
        logging.getLogger(name).setLevel(logging.WARNING)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
