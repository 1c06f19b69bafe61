"""The epochs of a stack of heads: batches, dropout, validation, and each head's own stop.

Heads are ordered site by site, and within a site seed by seed. What is random comes from
the seed alone, in three streams (start, order, dropout), so neither more sites nor more
epochs disturb a head.

Legend: S heads = sites x R seeds, B batch, N rows: n of them to learn from, M to validate.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from sightline.config.probing import ProbeSettings
from sightline.metrics.detection import auroc
from sightline.probes import heads
from sightline.probes.products import choose
from sightline.probes.stack import Stack, Tensors

_VALID_ROWS = 1024
"""Validation rows in one forward."""
_STREAMS = ("start", "order", "dropout")


@dataclass(frozen=True, slots=True)
class Epoch:
    """One epoch of one head, from 1. `valid_*` are nan without validation rows."""

    epoch: int
    train_loss: float
    valid_loss: float
    valid_auroc: float


@dataclass(frozen=True, slots=True)
class Finished:
    """A head at its end; `stopped` is the epoch whose weights it has."""

    weights: heads.Weights
    history: tuple[Epoch, ...]
    stopped: int


@dataclass(slots=True)
class _Course:
    """How far a head has come."""

    history: list[Epoch] = field(default_factory=list)
    best: Tensors = field(default_factory=dict)
    best_loss: float = math.inf
    best_epoch: int = 0


@dataclass(frozen=True, slots=True)
class Task:
    """What is learned from: each site's features (N, D), the labels, and the rows of two sides."""

    features: Sequence[npt.NDArray[np.float32]]
    labels_N: npt.NDArray[np.int64]
    train: npt.NDArray[np.int64]
    valid: npt.NDArray[np.int64]
    row_weights_n: npt.NDArray[np.float32]
    """In the loss, of the training rows in their order."""


def run_epochs(
    task: Task,
    settings: ProbeSettings,
    seeds: Sequence[int],
    device: torch.device,
    on_epoch: Callable[[int, Epoch], None] | None = None,
) -> list[Finished]:
    """Train a head for every site x seed.

    With `settings.patience` a head keeps its best epoch and leaves the stack when it has not
    improved for so long; otherwise all run to the end and keep their last weights. `on_epoch`
    hears of every head's epochs; what it raises ends the training.
    """
    with torch.no_grad():
        return _Epochs(task, settings, seeds, device).run(on_epoch)


def run_side_by_side(
    task: Task,
    settings: ProbeSettings,
    seeds: Sequence[int],
    device: torch.device,
    on_epoch: Callable[[int, Epoch], None] | None = None,
) -> list[Finished]:
    """`run_epochs`, on a CPU with the sites dealt out to as many threads as PyTorch has.

    Each thread computes alone: two that share every small product wait for each other at each
    (the bank's benchmark went from 2.2 to 2.9 by it).
    `on_epoch` may be called from any of them.
    """
    threads, sites = torch.get_num_threads(), len(task.features)
    hands = [range(i, sites, threads) for i in range(min(threads, sites))]
    if device.type != "cpu" or len(hands) == 1:
        return run_epochs(task, settings, seeds, device, on_epoch)

    def heads_of(hand: range) -> list[int]:
        return [site * len(seeds) + r for site in hand for r in range(len(seeds))]

    def play(hand: range) -> list[Finished]:
        dealt, own = replace(task, features=[task.features[site] for site in hand]), heads_of(hand)
        tell = (lambda s, epoch: on_epoch(own[s], epoch)) if on_epoch else None
        return run_epochs(dealt, settings, seeds, device, tell)

    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(len(hands)) as pool:
            played = list(pool.map(play, hands))
    finally:
        torch.set_num_threads(threads)
    order = [s for hand in hands for s in heads_of(hand)]
    finished = dict(zip(order, (head for part in played for head in part), strict=True))
    return [finished[s] for s in range(len(order))]


class _Epochs:
    def __init__(self, task: Task, settings: ProbeSettings, seeds: Sequence[int], device: torch.device):
        dtype = getattr(torch, settings.precision)
        self._settings, self._seeds, self._device = settings, seeds, device
        self._features = [_shared(x).to(device, dtype) for x in task.features]
        self._train_n = torch.from_numpy(task.train).to(device)
        self._valid_M = torch.from_numpy(task.valid).to(device)
        self._targets_n = torch.from_numpy(task.labels_N[task.train].astype(np.float32)).to(device)
        self._valid_labels_M = task.labels_N[task.valid]
        self._row_weights_n = torch.from_numpy(task.row_weights_n).to(device)
        hidden = heads.hidden_widths(settings)
        starts = [
            heads.initial(x.shape[1], hidden, generator(seed, "start"))
            for x in self._features
            for seed in seeds
        ]
        self._stack = Stack(starts, settings, choose(device, dtype))
        self._courses = [_Course() for _ in starts]
        self._orders = [generator(seed, "order") for seed in seeds]
        self._dropouts = [generator(seed, "dropout") for seed in seeds]

    def run(self, on_epoch: Callable[[int, Epoch], None] | None) -> list[Finished]:
        for epoch in range(1, self._settings.epochs + 1):
            train_loss_S = self._epoch()
            valid_SM = self._valid_logits() if len(self._valid_labels_M) else None
            for s in list(self._stack.active):
                self._note(s, epoch, train_loss_S[s], None if valid_SM is None else valid_SM[s])
                if on_epoch:
                    on_epoch(s, self._courses[s].history[-1])
            if not self._stack.active:
                break
        return [self._finished(s, course) for s, course in enumerate(self._courses)]

    def _epoch(self) -> list[float]:
        """One pass over the training rows; each head's mean loss."""
        count = len(self._targets_n)
        order_Rn = torch.stack([torch.randperm(count, generator=g) for g in self._orders]).to(self._device)
        sites = len(self._features)
        sums_S = torch.zeros(len(self._courses), device=self._device)
        seen = 0
        for rows_RB in self._batches(order_Rn):
            table_RB = self._train_n[rows_RB]
            inputs = [x.index_select(0, rows_B) for x in self._features for rows_B in table_RB]
            targets_BS = self._targets_n[rows_RB].T.repeat(1, sites)
            weights_BS = self._row_weights_n[rows_RB].T.repeat(1, sites)
            masks = self._masks(rows_RB.shape[1])
            sums_S += self._stack.step(inputs, targets_BS, weights_BS, masks) * rows_RB.shape[1]
            seen += rows_RB.shape[1]
        return (sums_S / seen).tolist()

    def _batches(self, order_Rn: torch.Tensor) -> Iterator[torch.Tensor]:
        """(R, B) row numbers; the last batch may be short, but BatchNorm cannot learn from one row."""
        for rows_RB in order_Rn.split(self._settings.batch_size, dim=1):
            if rows_RB.shape[1] > 1:
                yield rows_RB

    def _masks(self, rows: int) -> list[torch.Tensor]:
        """Dropout's masks of each hidden layer, (B, S, H): one draw a seed, the same for all sites."""
        widths, drop = heads.hidden_widths(self._settings), self._settings.dropout
        if not widths:
            return []
        drawn = [torch.rand(rows, sum(widths), generator=g) for g in self._dropouts]
        kept_BRH = (torch.stack(drawn, dim=1) >= drop).to(self._device, torch.float32) / (1.0 - drop)
        return [mask_BRH.repeat(1, len(self._features), 1) for mask_BRH in kept_BRH.split(widths, dim=2)]

    def _valid_logits(self) -> torch.Tensor:
        chunks = []
        for rows_B in self._valid_M.split(_VALID_ROWS):
            inputs = [x.index_select(0, rows_B) for x in self._features]
            chunks.append(self._stack.logits([x_BD for x_BD in inputs for _ in self._seeds]))
        return torch.cat(chunks).T.float().cpu()

    def _note(self, s: int, epoch: int, train_loss: float, logits_M: torch.Tensor | None) -> None:
        """Write the epoch down; keep the best weights, and take the head out when it is done."""
        course, loss, area = self._courses[s], math.nan, math.nan
        if logits_M is not None:
            targets_M = torch.from_numpy(self._valid_labels_M.astype(np.float32))
            loss = float(F.binary_cross_entropy_with_logits(logits_M, targets_M))
            area = auroc(self._valid_labels_M, logits_M.numpy())
        course.history.append(Epoch(epoch, train_loss, loss, area))
        patience = self._settings.patience
        if patience is None:
            return
        if loss < course.best_loss:
            course.best, course.best_loss, course.best_epoch = self._stack.state(s), loss, epoch
        elif epoch - course.best_epoch >= patience:
            self._stack.active.remove(s)

    def _finished(self, s: int, course: _Course) -> Finished:
        state = course.best or self._stack.state(s)
        weights = {name: tensor.cpu().numpy() for name, tensor in state.items()}
        return Finished(weights, tuple(course.history), course.best_epoch or len(course.history))


def _shared(features_ND: npt.NDArray[np.float32]) -> torch.Tensor:
    """The same memory, which is only read: features that Ray shares cannot be written, and need not be."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(features_ND)


def generator(seed: int, stream: str) -> torch.Generator:
    """The stream of a seed: `start` (weights), `order` (batches) or `dropout`."""
    state = np.random.SeedSequence((seed, _STREAMS.index(stream))).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state) >> 1)
