"""A trained probe and its file form: safetensors and JSON with provenance, never pickle.

probe.safetensors   the head's arrays, by the names of `heads`
probe.json          what they read and how they came about; format `FORMAT`
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sightline.errors import DataError, StorageError
from sightline.probes import heads

WEIGHTS, DESCRIPTION = "probe.safetensors", "probe.json"
FORMAT = 1
LAYERS = "layer i is the output of decoder block i (from 0, before the final norm); embedding enters block 0"
"""The convention of site names, written beside every probe."""


@dataclass(frozen=True, slots=True)
class Probe:
    """A head's weights and what it reads. Predicting needs numpy only."""

    site: str
    head: str
    input_dim: int
    weights: Mapping[str, npt.NDArray[np.float32]]
    provenance: dict[str, Any] = field(default_factory=dict)
    """Seed, settings, rows, model, ... as plain JSON values."""
    threshold: float = 0.5
    """From this calibrated probability on the probe says hallucination; chosen on validation rows."""
    slope: float = 1.0
    """Calibration: the probability is sigmoid(slope * logit + offset) (Platt 1999)."""
    offset: float = 0.0

    def logits(self, features_ND: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """The head's logit of each row, (N,), as trained. Raises DataError for another width or NaN."""
        x = np.asarray(features_ND, dtype=np.float32)
        if x.ndim != 2 or x.shape[1] != self.input_dim:
            raise DataError(
                expected=f"features (N, {self.input_dim}) of {self.site}",
                got=f"shape {x.shape}",
                hint="a probe reads only the site and model it was trained on",
            )
        if not np.isfinite(x).all():
            bad = int((~np.isfinite(x).all(axis=1)).sum())
            raise DataError(expected=f"finite features of {self.site}", got=f"NaN or infinity in {bad} rows")
        return heads.logits(self.weights, x)

    def predict_proba(
        self, features_ND: npt.ArrayLike, *, calibrated: bool = True
    ) -> npt.NDArray[np.float64]:
        """Probability of hallucination of each row, (N,). Raises DataError like `logits`."""
        logits_N = self.logits(features_ND)
        if calibrated:
            logits_N = self.slope * logits_N + self.offset
        return sigmoid(logits_N)

    def save(self, folder: str | Path) -> None:
        """Write probe.safetensors and probe.json into a folder, made if need be."""
        from safetensors.numpy import save_file

        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        arrays = {name: np.ascontiguousarray(a, dtype=np.float32) for name, a in self.weights.items()}
        save_file(arrays, path / WEIGHTS)
        description = {
            "format": FORMAT,
            "site": self.site,
            "head": self.head,
            "input_dim": self.input_dim,
            "threshold": self.threshold,
            "calibration": {"slope": self.slope, "offset": self.offset},
            "standardized": "input.mean" in self.weights,
            "layer_convention": LAYERS,
            "provenance": self.provenance,
        }
        (path / DESCRIPTION).write_text(json.dumps(description, indent=2, allow_nan=False) + "\n")

    @classmethod
    def load(cls, folder: str | Path) -> Probe:
        """Read a probe back. Raises StorageError naming what is missing, broken or of another format."""
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        path = Path(folder)
        try:
            description = json.loads((path / DESCRIPTION).read_text())
            weights = load_file(path / WEIGHTS)
        except (OSError, ValueError, SafetensorError) as error:
            raise StorageError(
                expected=f"a probe ({WEIGHTS} and {DESCRIPTION}) in {path}",
                got=str(error),
                hint="train it again with `python jobs/probe.py`",
            ) from error
        if description.get("format") != FORMAT:
            raise StorageError(
                expected=f"a probe of format {FORMAT} in {path}", got=f"format {description.get('format')}"
            )
        calibration = description["calibration"]
        return cls(
            description["site"],
            description["head"],
            description["input_dim"],
            weights,
            description["provenance"],
            description["threshold"],
            calibration["slope"],
            calibration["offset"],
        )


def sigmoid(logits_N: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """1 / (1 + exp(-x)) without overflow."""
    return np.exp(-np.logaddexp(0.0, -logits_N))
