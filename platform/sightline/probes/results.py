"""What one probe, and the bank, scored: HALP's keys and ours, as plain JSON values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sightline.probes.artifact import Probe
from sightline.probes.bank import Trained
from sightline.probes.splits import Split


@dataclass(frozen=True, slots=True)
class Rows:
    """What is known of each row beside its features; all of length N."""

    labels_N: npt.NDArray[np.int64]
    images: Sequence[str]
    kinds: Sequence[str]
    questions: Sequence[str]
    sources: Sequence[str]


def measure(
    trained: Trained, features_ND: npt.NDArray[np.float32], rows: Rows, split: Split, *, model_name: str
) -> tuple[Probe, dict[str, Any]]:
    """results.json of one probe, and the probe with threshold and temperature from validation rows."""
    raise NotImplementedError


def write_probe(folder: str | Path, probe: Probe, trained: Trained, result: Mapping[str, Any]) -> None:
    """One probe's folder: probe.safetensors, probe.json, results.json and four PNGs."""
    raise NotImplementedError


def bank_report(
    results: Sequence[Mapping[str, Any]],
    controls: Mapping[str, Any],
    *,
    refused: Mapping[str, str],
    manifest: Mapping[str, Any],
) -> dict[str, Any]:
    """bank.json: every probe's result, seeds gathered by site, the controls, one headline."""
    raise NotImplementedError


def write_bank(folder: str | Path, report: Mapping[str, Any]) -> None:
    """bank.json, bank.png and summary.html."""
    raise NotImplementedError
