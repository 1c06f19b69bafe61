"""A trained probe and its file form: safetensors and JSON with provenance, never pickle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

WEIGHTS, DESCRIPTION = "probe.safetensors", "probe.json"


@dataclass(frozen=True, slots=True)
class Probe:
    """A head's weights and what it reads. `predict_proba` needs numpy only."""

    site: str
    head: str
    input_dim: int
    weights: Mapping[str, npt.NDArray[np.float32]]
    provenance: dict[str, Any] = field(default_factory=dict)
    """Seed, settings, split, model, store, layer convention, ..."""
    threshold: float = 0.5
    """Above it the probe says hallucination; chosen on validation rows."""
    temperature: float = 1.0
    """Logits are divided by it (calibration on validation rows)."""

    def predict_proba(self, features_ND: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Probability of hallucination of each row, (N,). Raises DataError for another width."""
        raise NotImplementedError

    def save(self, folder: str | Path) -> None:
        """Write probe.safetensors and probe.json."""
        raise NotImplementedError

    @classmethod
    def load(cls, folder: str | Path) -> Probe:
        """Read them back. Raises StorageError naming what is missing or broken."""
        raise NotImplementedError
