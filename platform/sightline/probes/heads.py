"""The heads: HALP's MLP, a linear (logistic) probe, and mass-mean. Weights are named arrays.

    mlp        [Linear, ReLU, BatchNorm1d, Dropout] x widths -> Linear 1
               (alliedbrother/HALP_EACL, `HallucinationProbe`; its sigmoid is applied by the caller)
    linear     Linear 1 (Alain & Bengio 2016)
    mass_mean  the difference of the class means (Marks & Tegmark 2023, section 5), scaled to a
               logit by a logistic regression of the label on the projection

A linear head is an MLP without hidden layers, so one trainer and one forward serve all
three. Names: `hidden.0.weight`, `hidden.0.bias`, `hidden.0.norm.weight`, `.norm.bias`,
`.norm.mean`, `.norm.var`, ... `out.weight`, `out.bias`, and `input.mean`, `input.scale`
where features are standardised.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch

from sightline.config.probing import ProbeSettings

NORM_EPS = 1e-5
NORM_MOMENTUM = 0.1
"""PyTorch's defaults of BatchNorm1d, which HALP keeps."""

Weights = dict[str, npt.NDArray[np.float32]]


def hidden_widths(settings: ProbeSettings) -> tuple[int, ...]:
    """Widths between features and logit; none for a linear head."""
    return settings.widths if settings.head == "mlp" else ()


def standardizes(settings: ProbeSettings) -> bool:
    """Does this head see standardised features? Asked for, or left to the head: HALP's MLP does not."""
    return settings.head != "mlp" if settings.standardize is None else settings.standardize


def initial(width: int, hidden: tuple[int, ...], generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Weights before training, as `torch.nn.Linear` and `BatchNorm1d` draw them, from `generator`.

    Sites of one width therefore start equal, which takes the luck of the start out of
    their comparison.
    """
    weights: dict[str, torch.Tensor] = {}
    for i, (fan_in, fan_out) in enumerate(zip((width, *hidden), hidden, strict=False)):
        weights |= _linear(f"hidden.{i}", fan_in, fan_out, generator)
        weights[f"hidden.{i}.norm.weight"] = torch.ones(fan_out)
        weights[f"hidden.{i}.norm.bias"] = torch.zeros(fan_out)
        weights[f"hidden.{i}.norm.mean"] = torch.zeros(fan_out)
        weights[f"hidden.{i}.norm.var"] = torch.ones(fan_out)
    return weights | _linear("out", (width, *hidden)[-1], 1, generator)


def _linear(name: str, fan_in: int, fan_out: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
    bound = 1.0 / math.sqrt(fan_in)
    return {
        f"{name}.weight": torch.empty(fan_out, fan_in).uniform_(-bound, bound, generator=generator),
        f"{name}.bias": torch.empty(fan_out).uniform_(-bound, bound, generator=generator),
    }


def logits(
    weights: Mapping[str, npt.NDArray[np.float32]], features_ND: npt.ArrayLike
) -> npt.NDArray[np.float64]:
    """The head's logit of each row, (N,), dropout off and BatchNorm on its running statistics."""
    x = np.asarray(features_ND, dtype=np.float32)
    if "input.mean" in weights:
        x = (x - weights["input.mean"]) / weights["input.scale"]
    i = 0
    while f"hidden.{i}.weight" in weights:
        x = np.maximum(x @ weights[f"hidden.{i}.weight"].T + weights[f"hidden.{i}.bias"], 0.0)
        norm = {k: weights[f"hidden.{i}.norm.{k}"] for k in ("weight", "bias", "mean", "var")}
        x = (x - norm["mean"]) / np.sqrt(norm["var"] + NORM_EPS) * norm["weight"] + norm["bias"]
        i += 1
    return (x @ weights["out.weight"][0] + weights["out.bias"][0]).astype(np.float64)


def standardization(features_ND: npt.NDArray[np.float32]) -> Weights:
    """Mean and deviation of each feature over the training rows; a constant one is left unscaled."""
    deviation = features_ND.std(axis=0, dtype=np.float64)
    return {
        "input.mean": features_ND.mean(axis=0, dtype=np.float64).astype(np.float32),
        "input.scale": np.where(deviation > 0, deviation, 1.0).astype(np.float32),
    }


def mass_mean(
    features_ND: npt.NDArray[np.float32],
    labels_N: npt.NDArray[np.int64],
    row_weights_N: npt.NDArray[np.float32],
) -> Weights:
    """The direction between the class means, with the scale and offset that make it a logit."""
    from sklearn.linear_model import LogisticRegression

    means = [features_ND[labels_N == c].mean(axis=0, dtype=np.float64) for c in (0, 1)]
    direction = means[1] - means[0]
    direction /= np.linalg.norm(direction) or 1.0
    along_N1 = (features_ND @ direction.astype(np.float32)).astype(np.float64)[:, None]
    fit = LogisticRegression(C=1e6).fit(along_N1, labels_N, sample_weight=row_weights_N)
    slope = float(fit.coef_[0, 0])
    return {
        "out.weight": (slope * direction).astype(np.float32)[None],
        "out.bias": np.asarray(fit.intercept_, dtype=np.float32),
    }
