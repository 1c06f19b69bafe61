"""How probes learn and how they are judged."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from sightline.config.base import Frozen


class ProbeSettings(Frozen):
    """One head and how it learns. The defaults are HALP's (`Probe` in its training scripts)."""

    head: Literal["mlp", "linear", "mass_mean"] = "mlp"
    """`mlp`: [Linear, ReLU, BatchNorm, Dropout] x widths -> Linear 1; `linear`: logistic regression;
    `mass_mean`: the difference of the two classes' means, no training."""
    widths: tuple[PositiveInt, ...] = Field(default=(512, 256, 128), min_length=1)
    """Hidden widths of the MLP."""
    dropout: float = Field(default=0.3, ge=0.0, lt=1.0)
    """Share of hidden values dropped while training the MLP."""
    lr: PositiveFloat = 1e-3
    """Learning rate of Adam."""
    weight_decay: NonNegativeFloat = 0.0
    """Adam's L2 penalty, added to the gradient (as `torch.optim.Adam` does)."""
    batch_size: int = Field(default=32, ge=2)
    """Rows an optimiser step; BatchNorm needs two."""
    epochs: PositiveInt = 50
    """Passes over the training rows."""
    patience: PositiveInt | None = None
    """Stop a probe after so many epochs without a better validation loss and keep its best epoch;
    null = all epochs, the last one kept (HALP)."""
    class_weight: Literal["none", "balanced"] = "none"
    """`balanced` weighs the rows of each class by the inverse of its share."""
    standardize: bool | None = None
    """Subtract the training rows' mean and divide by their deviation, feature by feature; null = yes
    for the linear heads, no for the MLP (HALP)."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the products in training; weights, optimiser and predictions stay float32."""


class SplitSettings(Frozen):
    """Which rows a probe learns from, which choose its threshold, which judge it."""

    by: Literal["image", "question", "source"] = "image"
    """`image`: no image on two sides; `question`: HALP's, rows at random (the same image may be on
    both sides); `source`: one whole source is held out."""
    source: str | None = None
    """The held-out source, with `by: source`."""
    test_share: float = Field(default=0.2, gt=0.0, lt=1.0)
    """Share of the rows that judge."""
    valid_share: float = Field(default=0.1, ge=0.0, lt=1.0)
    """Share of the rows that choose thresholds and stop training; 0 = none (HALP)."""
    seed: NonNegativeInt = 42
    """Seed of the split."""
