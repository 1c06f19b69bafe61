"""Train one probe a site (and seed), all in one pass over the batches.

Every probe of a seed sees the same batches and the same dropout masks, and probes of
one width start from the same weights; each draws on nothing but its own seed, so a
probe is the same whether it is trained alone, in a bank, or in another bank. The
products and the optimiser are those of `stack`; here are the checks before, the
epochs, and the stopping of each probe by itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from sightline.config.probing import ProbeSettings
from sightline.errors import DataError
from sightline.probes import heads
from sightline.probes.artifact import Probe
from sightline.probes.epochs import Epoch, Task, run_side_by_side

FEWEST_ROWS = 20

FloatFeatures = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Trained:
    """A probe and how it got there; `stopped` is the epoch whose weights it has, 0 if it has none."""

    probe: Probe
    history: tuple[Epoch, ...]
    stopped: int


@dataclass(frozen=True, slots=True)
class BankResult:
    """`trained[(site name, seed)]`; `refused[site name]` says why a site cannot be probed."""

    trained: dict[tuple[str, int], Trained]
    refused: dict[str, str]
    seconds: float


def refusals(features: Mapping[str, FloatFeatures], labels_N: npt.ArrayLike) -> dict[str, str]:
    """Why a site cannot be probed (constant, NaN, not a table), by site name; the check before training.

    Raises DataError for what spoils every site: labels that are not 0 and 1, or only one of
    them; too few rows; a site with more or fewer rows than labels.
    """
    labels = np.asarray(labels_N)
    if not np.isin(labels, (0, 1)).all():
        raise DataError(expected="labels 0 and 1", got=f"{np.unique(labels)[:5].tolist()}")
    positives = int((labels == 1).sum())
    if positives in (0, len(labels)):
        raise DataError(
            expected="hallucinated (1) and other (0) rows",
            got=f"{positives} hallucinated of {len(labels)}",
            hint="a probe needs both; judge more answers, or check the label column",
        )
    if len(labels) < FEWEST_ROWS:
        raise DataError(expected=f"at least {FEWEST_ROWS} labelled rows", got=str(len(labels)))
    for site, x in features.items():
        if len(x) != len(labels):
            raise DataError(
                expected=f"{len(labels)} rows of {site}, one a label",
                got=f"shape {x.shape}",
                hint="features and labels must be of the same ids, in the same order",
            )
    return {site: why for site, x in features.items() if (why := _fault(x))}


def _fault(features_ND: FloatFeatures) -> str:
    if features_ND.ndim != 2 or not features_ND.shape[1]:
        return f"expected features (N, D), got shape {features_ND.shape}"
    if not np.isfinite(features_ND.sum(dtype=np.float64)):
        bad = int((~np.isfinite(features_ND).all(axis=1)).sum())
        return f"NaN or infinity in {bad} of {len(features_ND)} rows; extract them again or leave them out"
    first = features_ND[:1]
    if (features_ND[:64] == first).all() and (features_ND == first).all():
        return (
            "the feature is the same vector in every row, so it can say nothing about any of them. "
            "That is what the embedding of a fixed token is: the last token of a question is often "
            "its question mark, and a chat template's last token is constant text (HALP's "
            "query_token at the embedding layer: AUROC 0.50). Take a layer above it"
        )
    return ""


def train_bank(
    features: Mapping[str, FloatFeatures],
    labels_N: npt.ArrayLike,
    train_idx: npt.ArrayLike,
    valid_idx: npt.ArrayLike,
    settings: ProbeSettings,
    seeds: Sequence[int] = (42,),
    *,
    device: str = "cpu",
    on_epoch: Callable[[tuple[str, int], Epoch], None] | None = None,
) -> BankResult:
    """Probes of every site x seed at once; the same as training them one by one.

    `features` maps a site's name to (N, D) float32; `valid_idx` may be empty unless
    `settings.patience` is set. `on_epoch` hears of each (site, seed)'s epochs as they end (a search
    stops a poor one by raising). Raises DataError like `refusals`, or when every site is refused.
    """
    started = time.perf_counter()
    labels = np.asarray(labels_N).astype(np.int64)
    train, valid = np.asarray(train_idx, dtype=np.int64), np.asarray(valid_idx, dtype=np.int64)
    if settings.patience is not None and not len(valid):
        raise DataError(
            expected="validation rows to stop by",
            got="none",
            hint="set split.valid_share above 0, or probe.patience to null",
        )
    refused = refusals(features, labels)
    refusals({}, labels[train])
    usable = {site: np.asarray(x, dtype=np.float32) for site, x in features.items() if site not in refused}
    if not usable:
        raise DataError(expected="a site that can be probed", got="; ".join(map(": ".join, refused.items())))
    if settings.head == "mass_mean":
        trained = {
            (site, seed): _mass_mean(site, x, labels, train, settings, seed)
            for site, x in usable.items()
            for seed in seeds
        }
    else:
        place = torch.device(device)
        trained = _trained(usable, labels, train, valid, settings, seeds, place, on_epoch)
    return BankResult(trained, refused, time.perf_counter() - started)


def row_weights(labels_N: npt.NDArray[np.int64], settings: ProbeSettings) -> npt.NDArray[np.float32]:
    """Each row's weight in the loss: 1, or with `balanced` N / (2 * rows of its class)."""
    if settings.class_weight == "none":
        return np.ones(len(labels_N), dtype=np.float32)
    counts_2 = np.bincount(labels_N, minlength=2)
    return (len(labels_N) / (2.0 * counts_2))[labels_N].astype(np.float32)


def _trained(
    features: Mapping[str, FloatFeatures],
    labels_N: npt.NDArray[np.int64],
    train: npt.NDArray[np.int64],
    valid: npt.NDArray[np.int64],
    settings: ProbeSettings,
    seeds: Sequence[int],
    device: torch.device,
    on_epoch: Callable[[tuple[str, int], Epoch], None] | None,
) -> dict[tuple[str, int], Trained]:
    """The heads that learn by gradient; float32 features that are not standardised are never copied."""
    keys = [(site, seed) for site in features for seed in seeds]
    scaling = [
        heads.standardization(x[train]) if heads.standardizes(settings) else {} for x in features.values()
    ]
    seen = [
        (x - found["input.mean"]) / found["input.scale"] if found else x
        for x, found in zip(features.values(), scaling, strict=True)
    ]
    task = Task(seen, labels_N, train, valid, row_weights(labels_N[train], settings))

    def tell(s: int, epoch: Epoch) -> None:
        if on_epoch:
            on_epoch(keys[s], epoch)

    finished = run_side_by_side(task, settings, seeds, device, tell)
    trained = {}
    for i, (key, head) in enumerate(zip(keys, finished, strict=True)):
        weights = scaling[i // len(seeds)] | head.weights
        probe = _probe(*key, settings, weights, len(train))
        trained[key] = Trained(probe, head.history, head.stopped)
    return trained


def _mass_mean(
    site: str,
    features_ND: FloatFeatures,
    labels_N: npt.NDArray[np.int64],
    train: npt.NDArray[np.int64],
    settings: ProbeSettings,
    seed: int,
) -> Trained:
    x, y = features_ND[train], labels_N[train]
    weights: heads.Weights = {}
    if heads.standardizes(settings):
        weights = heads.standardization(x)
        x = (x - weights["input.mean"]) / weights["input.scale"]
    weights |= heads.mass_mean(x, y, row_weights(y, settings))
    return Trained(_probe(site, seed, settings, weights, len(train)), (), 0)


def _probe(site: str, seed: int, settings: ProbeSettings, weights: heads.Weights, rows: int) -> Probe:
    width = weights["hidden.0.weight" if "hidden.0.weight" in weights else "out.weight"].shape[1]
    provenance = {"seed": seed, "settings": settings.model_dump(mode="json"), "train_rows": rows}
    return Probe(site, settings.head, int(width), weights, provenance)
