"""One Ray for all integration tests of a session, stopped at its end."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ["RAY_AUTH_MODE"] = "disabled"
# Ray starts its workers 15 levels nicer than itself: beside any other work they would hardly run.
os.environ.setdefault("RAY_worker_niceness", "0")
# Ray's workers, and the drivers that tests start and kill, import the workers of these files.
_folders = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, _folders))


@pytest.fixture(scope="session")
def ray_session() -> Iterator[object]:
    """A private cluster of 8 logical CPUs with its dashboard (Ray Train's clean-up asks it)."""
    from sightline.distributed import session

    cluster = session.connect(workers=1, dashboard=True)
    yield cluster
    session.disconnect()
