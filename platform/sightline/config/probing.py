"""How hallucination probes are built, trained, split and judged."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from sightline.config.base import Frozen
from sightline.errors import ConfigError


class ProbeSettings(Frozen):
    """One probe. The defaults are HALP's (EACL 2026): its MLP, its optimiser, its 50 epochs."""

    head: Literal["mlp", "linear", "mass_mean"] = "mlp"
    """mlp (HALP), linear (logistic regression), or mass_mean (difference of the class means)."""
    hidden: tuple[PositiveInt, ...] = Field(default=(512, 256, 128), min_length=1)
    """Widths of the MLP's hidden layers, each Linear, ReLU, BatchNorm, Dropout."""
    dropout: float = Field(default=0.3, ge=0.0, lt=1.0)
    """Share of hidden values dropped in training."""
    lr: PositiveFloat = 1e-3
    """Learning rate of Adam."""
    weight_decay: NonNegativeFloat = 0.0
    """Adam's L2 penalty (decoupled, as in AdamW)."""
    batch_size: PositiveInt = 32
    """Rows a step."""
    epochs: PositiveInt = 50
    """Passes over the training rows; the most, where `patience` is set."""
    patience: PositiveInt | None = None
    """Stop when the validation loss has not fallen for so many epochs, and keep the best; null = never."""
    validation: float = Field(default=0.1, gt=0.0, lt=0.5)
    """Share of the training rows that early stopping watches; they are not trained on."""
    class_weight: Literal["none", "balanced"] | PositiveFloat = "none"
    """Weight of a hallucinated row in the loss: none (1), balanced (the classes' ratio), or a number."""
    standardize: bool = False
    """Scale each feature by its mean and deviation over the training rows; HALP does not."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the matrix products in training; weights, losses and scores are float32."""


class SplitSettings(Frozen):
    """Which rows a probe is tested on."""

    by: Literal["image", "question", "source"] = "image"
    """image: no image on both sides; question: HALP's, rows at random; source: one source held out."""
    test: float = Field(default=0.2, gt=0.0, lt=0.9)
    """Share of the rows that is tested on; not used by `source`."""
    source: str | None = None
    """The source that is held out; needed by `source`, unused otherwise."""
    seed: NonNegativeInt = 42
    """Seed of the split."""

    @model_validator(mode="after")
    def _names_a_source(self) -> SplitSettings:
        if self.by == "source" and not self.source:
            raise ConfigError(
                expected="split.source, the source to hold out, beside split.by=source", got="null"
            )
        return self
