"""Where a run writes, and under which name."""

from __future__ import annotations

import os

from pydantic import Field

from sightline.config.base import Frozen, Location, TrackingUri


class RunConfig(Frozen):
    """A run is the folder `root`/`name` and one MLflow run of the same name."""

    name: str = Field(default="dpo", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Letters, digits, dots, dashes. The same name again continues where the run stopped."""
    root: Location = "runs"
    """Folder of all runs. On several machines: a folder that all of them share."""
    tracking_uri: TrackingUri = "sqlite:///mlflow.db"
    """MLflow's store: an sqlite file (one machine) or a server's address."""
    experiment: str = "sightline"
    """MLflow experiment that the run appears under."""

    @property
    def folder(self) -> str:
        """`root`/`name`."""
        return os.path.join(self.root, self.name)
