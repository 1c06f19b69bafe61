"""How preference optimisation learns."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from sightline.config.base import Frozen
from sightline.errors import ConfigError


class TrainingConfig(Frozen):
    """Objective, optimiser, batches, checkpoints."""

    loss: Literal["sigmoid", "ipo", "hinge", "robust"] = "sigmoid"
    """Preference loss; see `sightline.training.losses` for the equations."""
    beta: PositiveFloat = 0.1
    """Strength of the pull towards the reference model (inverse temperature)."""
    label_smoothing: float = Field(default=0.0, ge=0.0, lt=0.5)
    """Assumed share of pairs whose sides are swapped."""
    length_normalized: bool = False
    """Divide an answer's log-probability by its number of tokens."""
    sft_weight: NonNegativeFloat = 0.5
    """Weight of the chosen answer's mean negative log-likelihood beside the preference loss; 0 = plain
    DPO. Without it captions lose recall: the model learns to say less."""
    freeze: str | None = None
    """Without LoRA: parameters whose whole name matches this regular expression stay as they are."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the computation; `auto` = bfloat16 on a GPU, float32 on a CPU."""
    forward: Literal["shared", "plain"] = "shared"
    """`shared` computes image and prompt once a pair; `plain` runs both answers in full."""
    lr: PositiveFloat = 4e-5
    """Peak learning rate of AdamW."""
    weight_decay: NonNegativeFloat = 0.0
    """AdamW's decoupled weight decay."""
    warmup_ratio: float = Field(default=0.05, ge=0.0, le=1.0)
    """Share of all steps over which the learning rate rises from 0."""
    schedule: Literal["constant", "linear", "cosine"] = "cosine"
    """Learning rate after the warm-up."""
    epochs: PositiveInt = 1
    """Passes over the pairs."""
    max_steps: PositiveInt | None = None
    """Stop after so many optimiser steps; null = all epochs."""
    global_batch: PositiveInt = 32
    """Pairs an optimiser step, over all workers; kept by gradient accumulation."""
    micro_batch: PositiveInt = 8
    """Pairs a worker holds in one forward."""
    max_grad_norm: PositiveFloat = 1.0
    """Gradients are scaled down to this norm."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third slower."""
    seed: NonNegativeInt = 0
    """Seed of initialisation and of the pairs' order."""
    checkpoint_every: PositiveInt = 50
    """Optimiser steps between checkpoints; at most this much work is lost with a worker."""
    max_failures: NonNegativeInt = 3
    """How often a lost worker group is started again from the last checkpoint."""

    @model_validator(mode="after")
    def _batches_divide(self) -> TrainingConfig:
        if self.global_batch % self.micro_batch:
            raise ConfigError(
                expected="training.global_batch to be a multiple of training.micro_batch",
                got=f"{self.global_batch} and {self.micro_batch}",
                hint=f"set training.micro_batch to a divisor of {self.global_batch}",
            )
        return self

    def bf16(self, device: str) -> bool:
        """Whether to compute in bfloat16 on a device of this type (`cpu`, `cuda`)."""
        return self.precision == "bfloat16" or (self.precision == "auto" and device != "cpu")
