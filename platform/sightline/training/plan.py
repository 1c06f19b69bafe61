"""Which pairs make which step, and how large the step is.

The order of the data is a function of (seed, epoch), and a step is a cursor into it, so a run
that resumes, or that has another number of workers, sees the same global batches. Pure
arithmetic: no torch, no data.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np

from sightline.errors import ConfigError

Schedule = Literal["constant", "linear", "cosine"]


@dataclass(frozen=True, slots=True)
class Plan:
    """The course of a training run over `num_pairs` pairs."""

    num_pairs: int
    global_batch: int
    """Pairs an optimiser step, over all workers."""
    steps: int
    seed: int

    @classmethod
    def of(cls, num_pairs: int, *, global_batch: int, epochs: int, max_steps: int | None, seed: int) -> Plan:
        """All epochs in whole batches (the last one is filled from a further pass)."""
        steps = math.ceil(epochs * num_pairs / global_batch)
        return cls(num_pairs, global_batch, min(steps, max_steps or steps), seed)

    def batch(self, step: int) -> np.ndarray:
        """Indices (global_batch,) of the pairs of one step, counted from 0."""
        cursor = np.arange(step * self.global_batch, (step + 1) * self.global_batch)
        epoch, place = np.divmod(cursor, self.num_pairs)
        parts = [_permutation(self.seed, int(e), self.num_pairs)[place[epoch == e]] for e in np.unique(epoch)]
        return np.concatenate(parts)

    def share(self, step: int, *, rank: int, world: int, micro_batch: int) -> np.ndarray:
        """What one worker computes in a step: indices (accumulation, micro_batch).

        Whatever the number of workers, the union over ranks is `batch(step)`.
        """
        accumulation = accumulation_steps(self.global_batch, micro_batch=micro_batch, world=world)
        return self.batch(step).reshape(accumulation, world, micro_batch)[:, rank]


def accumulation_steps(global_batch: int, *, micro_batch: int, world: int) -> int:
    """Micro-batches a worker accumulates for one step.

    Raises ConfigError when the global batch cannot be cut evenly.
    """
    if global_batch % (micro_batch * world):
        raise ConfigError(
            expected="training.global_batch to be a multiple of training.micro_batch x workers",
            got=f"{global_batch} and {micro_batch} x {world}",
            hint=f"choose a micro batch that divides {global_batch} / {world}, or another number of workers",
        )
    return global_batch // (micro_batch * world)


def learning_rate(step: int, *, steps: int, peak: float, warmup_ratio: float, schedule: Schedule) -> float:
    """Linear warm-up from peak / n to peak, then constant, or linear or cosine down to 0 at the end."""
    warmup = math.ceil(warmup_ratio * steps)
    if step < warmup:
        return peak * (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    match schedule:
        case "constant":
            return peak
        case "linear":
            return peak * (1 - done)
        case "cosine":
            return peak * 0.5 * (1 + math.cos(math.pi * done))


@lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, size: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(size)
