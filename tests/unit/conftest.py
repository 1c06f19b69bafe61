"""Oracles that are not part of the project: read where they are, a skip with the reason where not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sightline.metrics.english import English

SHARED = Path(os.environ.get("SIGHTLINE_SHARED") or Path(__file__).parents[3] / "shared" / "data")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of test oracles: SIGHTLINE_SHARED, or ../shared/data beside the repository."""
    if not (SHARED / "README.md").is_file():
        pytest.skip(f"no test oracles at {SHARED} (set SIGHTLINE_SHARED to the folder)")
    return SHARED


@pytest.fixture(scope="session")
def english(shared: Path) -> English:
    """NLTK with the oracles' data, loaded once."""
    return English(str(shared / "nltk_data"))
