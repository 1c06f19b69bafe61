"""Platt scaling: two numbers, fitted on validation rows, that make a score a probability.

Probes overfit (HALP's reach a training AUROC of .93 to .998), so their probabilities
are far too sure; class weights shift them too. A slope and an offset mend both and
leave the ranking as it is.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sightline.probes.artifact import sigmoid

_STEPS, _TOLERANCE, _RIDGE = 100, 1e-9, 1e-6


def fit_platt(logits_N: npt.NDArray[np.float64], labels_N: npt.ArrayLike) -> tuple[float, float]:
    """(slope, offset) of the least cross-entropy; (1, 0) where rows or classes are too few.

    Targets are Platt's smoothed ones (1999, section 2.2), so a separable validation set does
    not ask for an infinite slope. A slope that would turn the ranking round is not taken: then
    only the offset is fitted, on slope 0+.
    """
    labels = np.asarray(labels_N).astype(bool)
    positives, negatives = int(labels.sum()), int((~labels).sum())
    if min(positives, negatives) < 2:
        return 1.0, 0.0
    target_N = np.where(labels, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    deviation = float(logits_N.std()) or 1.0
    centre = float(logits_N.mean())
    design_N2 = np.stack([(logits_N - centre) / deviation, np.ones_like(logits_N)], axis=1)
    slope, offset = _newton(design_N2, target_N)
    if slope <= 0:
        slope, offset = 1e-3, float(np.log(positives / negatives))
    return slope / deviation, offset - slope * centre / deviation


def _newton(design_N2: npt.NDArray[np.float64], target_N: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Logistic regression with halved steps where a full one would overshoot."""
    beta_2 = np.zeros(2)
    loss = _loss(design_N2, target_N, beta_2)
    for _ in range(_STEPS):
        p_N = sigmoid(design_N2 @ beta_2)
        gradient_2 = design_N2.T @ (p_N - target_N)
        hessian_22 = (design_N2 * (p_N * (1 - p_N))[:, None]).T @ design_N2 + _RIDGE * np.eye(2)
        step_2 = np.linalg.solve(hessian_22, gradient_2)
        size = 1.0
        while (new := _loss(design_N2, target_N, beta_2 - size * step_2)) > loss and size > 1e-6:
            size /= 2
        beta_2 = beta_2 - size * step_2
        if loss - new < _TOLERANCE:
            break
        loss = new
    return float(beta_2[0]), float(beta_2[1])


def _loss(
    design_N2: npt.NDArray[np.float64], target_N: npt.NDArray[np.float64], beta_2: npt.NDArray
) -> float:
    logits_N = design_N2 @ beta_2
    return float((np.logaddexp(0.0, logits_N) - target_N * logits_N).sum())
