"""Low-rank adapters: which projections learn."""

from __future__ import annotations

from pydantic import Field, PositiveInt

from sightline.config.base import Frozen


class LoraConfig(Frozen):
    """LoRA (Hu et al. 2021): W + (alpha / rank) B A, with W frozen."""

    rank: PositiveInt = 16
    """Width of the update."""
    alpha: PositiveInt = 32
    """Numerator of the update's scale, alpha / rank."""
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Dropped share of the update's input while training."""
    targets: str = r".*text_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
    """Regular expression that a module's whole name must match to get an adapter."""
