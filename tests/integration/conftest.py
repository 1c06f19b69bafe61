"""One Ray for all integration tests of a session, stopped at its end."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

os.environ["RAY_AUTH_MODE"] = "disabled"


@pytest.fixture(scope="session")
def ray_session() -> Iterator[object]:
    """A private cluster of 8 logical CPUs with its dashboard (Ray Train's clean-up asks it)."""
    from sightline.distributed import session

    cluster = session.connect(workers=1, dashboard=True)
    yield cluster
    session.disconnect()
