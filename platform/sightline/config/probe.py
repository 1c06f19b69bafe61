"""`jobs/probe.py`: a bank of hallucination probes on stored activations, with its controls."""

from __future__ import annotations

from pydantic import Field, NonNegativeInt, PositiveInt

from sightline.config.base import Frozen, Location
from sightline.config.probing import ProbeSettings, SplitSettings
from sightline.config.resources import ResourcesConfig
from sightline.config.run import RunConfig


class ProbeConfig(Frozen):
    """Train one probe a site of an activation store, test them, and report them beside their controls."""

    run: RunConfig = RunConfig(name="probe")
    activations: Location | None = None
    """Folder of an activation store; null = that of `python jobs/extract.py` under `run.root`."""
    label: str = "label"
    """Column of the store with 1 (hallucinated) and 0; rows without a value are left out."""
    sites: tuple[str, ...] = ()
    """Names of sites, such as query_token.layer_4; none = all of the store."""
    probe: ProbeSettings = ProbeSettings()
    split: SplitSettings = SplitSettings()
    seeds: tuple[NonNegativeInt, ...] = Field(default=(42,), min_length=1)
    """Seeds of initialisation and order; the first one's probe is kept, the others tell its spread."""
    bootstrap: PositiveInt = 1000
    """Resamples (by image) behind each interval."""
    confidence: float = Field(default=0.95, gt=0.5, lt=1.0)
    """Coverage of the intervals."""
    threads: NonNegativeInt = 0
    """CPU threads of a training process; 0 = what torch finds."""
    resources: ResourcesConfig = ResourcesConfig()
    dry_run: bool = False
    """Examine the store as this run would use it, print the findings, stop. Same as `--check`."""
