"""What one probe scored: HALP's keys and ours beside them, as plain JSON values.

HALP's `test_set` is at a threshold of 0.5 on the head's own probabilities, so it can be
laid beside its tables. Ours are calibrated, carry an interval by image, and say what is
left within one kind of question. What is undefined is None, for strict JSON.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sightline.activations.sites import Site
from sightline.errors import DataError
from sightline.metrics import detection
from sightline.probes.artifact import Probe, sigmoid
from sightline.probes.bank import Trained
from sightline.probes.calibration import fit_platt
from sightline.probes.splits import Split

_POINTS = 200
"""Most points of a curve that is kept for the figures."""


@dataclass(frozen=True, slots=True)
class Rows:
    """What is known of each row beside its features; all of length N."""

    labels_N: npt.NDArray[np.int64]
    images: Sequence[str]
    kinds: Sequence[str]
    questions: Sequence[str]
    sources: Sequence[str]

    def __post_init__(self) -> None:
        for name in ("images", "kinds", "questions", "sources"):
            if len(getattr(self, name)) != len(self.labels_N):
                raise DataError(
                    expected=f"{len(self.labels_N)} {name}, one a label", got=str(len(getattr(self, name)))
                )


def measure(
    trained: Trained,
    features_ND: npt.NDArray[np.float32],
    rows: Rows,
    split: Split,
    *,
    model_name: str,
    resamples: int = 1000,
    confidence: float = 0.95,
) -> tuple[Probe, dict[str, Any]]:
    """The probe, calibrated and with its threshold from the validation rows, and its results.json.

    Without validation rows the probe keeps 0.5 and its own probabilities.
    """
    raw, labels_N = trained.probe, rows.labels_N
    logits_N = raw.logits(features_ND)
    slope, offset, threshold = _from_validation(logits_N[split.valid], labels_N[split.valid])
    scores_N = sigmoid(slope * logits_N + offset)
    probe = dataclasses.replace(
        raw,
        slope=slope,
        offset=offset,
        threshold=threshold,
        provenance=raw.provenance | {"model_name": model_name, "split": split.name},
    )
    test = split.test
    halp = detection.confusion(labels_N[test], sigmoid(logits_N[test]))
    site = Site.parse(raw.site)
    result: dict[str, Any] = {
        "model_name": model_name,
        "embedding_type": f"{site.kind}_representation",
        "layer_name": None if site.layer is None else site.name.removeprefix(f"{site.kind}."),
        "input_dim": raw.input_dim,
        "test_set": {
            "accuracy": halp.accuracy,
            "precision": halp.precision,
            "recall": halp.recall,
            "f1": halp.f1,
            "auroc": detection.auroc(labels_N[test], logits_N[test]),
        },
        "site": raw.site,
        "seed": raw.provenance.get("seed"),
        "head": raw.head,
        "split": split.name,
        "rows": {side: _count(labels_N[getattr(split, side)]) for side in ("train", "valid", "test")},
        "train_set": {"auroc": detection.auroc(labels_N[split.train], logits_N[split.train])},
        "valid_set": {"auroc": detection.auroc(labels_N[split.valid], logits_N[split.valid])},
        "stopped": trained.stopped,
        "history": [dataclasses.asdict(epoch) for epoch in trained.history],
    }
    result |= _detection(scores_N[test], rows, test, threshold, resamples, confidence)
    result["ece_uncalibrated"] = detection.reliability(labels_N[test], sigmoid(logits_N[test])).ece
    result["curves"]["reliability_uncalibrated"] = _reliability(labels_N[test], sigmoid(logits_N[test]))
    return probe, strict(result)


def ranking(
    scores_n: npt.NDArray[np.float64],
    rows: Rows,
    test: npt.NDArray[np.int64],
    *,
    resamples: int = 1000,
    confidence: float = 0.95,
) -> dict[str, Any]:
    """AUROC of the test rows' scores with its interval by image, and the same within kinds of question."""
    labels_n = rows.labels_N[test]
    images = [rows.images[i] for i in test]
    kinds = [rows.kinds[i] for i in test]
    found: dict[str, Any] = {}
    for name, strata in (("auroc", None), ("within_kind", kinds)):
        value, low, high = detection.clustered_auroc(
            labels_n, scores_n, images, strata=strata, resamples=resamples, level=confidence
        )
        found[name] = {"value": value, "low": low, "high": high, "n": len(test)}
    return found


def strict(value: Any) -> Any:
    """The same with None for NaN and infinity, so that it is JSON everywhere."""
    if isinstance(value, dict):
        return {key: strict(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [strict(each) for each in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _from_validation(
    logits_M: npt.NDArray[np.float64], labels_M: npt.NDArray[np.int64]
) -> tuple[float, float, float]:
    """(slope, offset, threshold); the untouched ones where there is nothing to choose by."""
    if len(set(labels_M.tolist())) < 2:
        return 1.0, 0.0, 0.5
    slope, offset = fit_platt(logits_M, labels_M)
    threshold, _ = detection.best_f1_threshold(labels_M, sigmoid(slope * logits_M + offset))
    return slope, offset, threshold


def _detection(
    scores_n: npt.NDArray[np.float64],
    rows: Rows,
    test: npt.NDArray[np.int64],
    threshold: float,
    resamples: int,
    confidence: float,
) -> dict[str, Any]:
    """Our scores of the calibrated test probabilities, and the curves behind the figures."""
    labels_n = rows.labels_N[test]
    chosen = detection.confusion(labels_n, scores_n, threshold)
    roc = detection.roc_curve(labels_n, scores_n)
    answering = detection.risk_coverage(labels_n, scores_n)
    return ranking(scores_n, rows, test, resamples=resamples, confidence=confidence) | {
        "confidence": confidence,
        "auprc": detection.auprc(labels_n, scores_n),
        "base_rate": float(labels_n.mean()),
        "best_threshold": {
            "threshold": threshold,
            "f1": chosen.f1,
            "precision": chosen.precision,
            "recall": chosen.recall,
            "accuracy": chosen.accuracy,
            "chosen_on": "validation rows",
        },
        "ece": detection.reliability(labels_n, scores_n).ece,
        "confusion": dataclasses.asdict(chosen),
        "curves": {
            "roc": _thinned(roc),
            "risk_coverage": _thinned(answering),
            "reliability": _reliability(labels_n, scores_n),
        },
    }


def _count(labels_n: npt.NDArray[np.int64]) -> dict[str, int]:
    return {"n": len(labels_n), "hallucinated": int(labels_n.sum())}


def _thinned(curve: detection.Curve) -> list[list[float]]:
    keep = np.unique(np.linspace(0, len(curve.x) - 1, min(len(curve.x), _POINTS)).astype(int))
    return [
        [round(float(x), 5), round(float(y), 5)] for x, y in zip(curve.x[keep], curve.y[keep], strict=True)
    ]


def _reliability(labels_n: npt.NDArray[np.int64], scores_n: npt.NDArray[np.float64]) -> list[list[float]]:
    bins = detection.reliability(labels_n, scores_n)
    columns = (bins.mean_score_B, bins.positive_share_B, bins.count_B)
    return [[round(float(value), 5) for value in each] for each in zip(*columns, strict=True)]
