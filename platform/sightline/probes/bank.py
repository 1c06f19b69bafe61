"""Train one probe a site (and seed), all in one pass over the batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sightline.config.probing import ProbeSettings
from sightline.probes.artifact import Probe


@dataclass(frozen=True, slots=True)
class Epoch:
    """One epoch of one probe. `valid_*` are nan without validation rows."""

    epoch: int
    train_loss: float
    valid_loss: float
    valid_auroc: float


@dataclass(frozen=True, slots=True)
class Trained:
    """A probe and how it got there; `stopped` is the epoch whose weights it has (1-based)."""

    probe: Probe
    history: tuple[Epoch, ...]
    stopped: int


@dataclass(frozen=True, slots=True)
class BankResult:
    """`trained[(site name, seed)]`; `refused[site name]` says why a site cannot be probed."""

    trained: dict[tuple[str, int], Trained]
    refused: dict[str, str]
    seconds: float


def refusals(features: Mapping[str, npt.NDArray[np.float32]], labels_N: npt.ArrayLike) -> dict[str, str]:
    """Why a site cannot be probed (constant, NaN), by site name; the check before training.

    Raises DataError for what spoils every site: single-class labels, too few rows, sites of
    unequal length.
    """
    raise NotImplementedError


def train_bank(
    features: Mapping[str, npt.NDArray[np.float32]],
    labels_N: npt.ArrayLike,
    train_idx: npt.ArrayLike,
    valid_idx: npt.ArrayLike,
    settings: ProbeSettings,
    seeds: Sequence[int] = (42,),
) -> BankResult:
    """Probes of every site x seed at once; the same as training them one by one.

    `features` maps a site's name to (N, D) float32. Raises DataError like `refusals`, or when
    every site is refused.
    """
    raise NotImplementedError
