"""What the question alone would have scored: the controls that stand beside every probe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from sightline.config.probing import ProbeSettings
from sightline.probes.results import Rows
from sightline.probes.splits import Split


def run_controls(
    rows: Rows,
    split: Split,
    settings: ProbeSettings,
    *,
    features: Mapping[str, npt.NDArray[np.float32]],
    seed: int = 42,
) -> dict[str, Any]:
    """{name: {auroc, low, high, n, note}}: question_type, text_only, image_only, shuffled_labels."""
    raise NotImplementedError
