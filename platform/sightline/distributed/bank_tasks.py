"""Banks of probes as tasks: some sites of one seed each, carried out here or spread by Ray.

A task reads its own sites from the store and writes its own folders, so nothing but names and
counts passes between processes. A folder appears whole, by one rename; a task that was killed
is done again, which changes nothing that is there.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sightline.config.probing import ProbeSettings
from sightline.config.resources import ResourcesConfig
from sightline.distributed.probe_inputs import ProbeInputs
from sightline.errors import SightlineError
from sightline.probes.bank import train_bank
from sightline.probes.report import write_probe
from sightline.probes.results import measure
from sightline.probes.splits import Split


@dataclass(frozen=True, slots=True)
class BankTask:
    """Some sites of one seed: what one process trains in one pass. Picklable."""

    inputs: ProbeInputs
    sites: tuple[str, ...]
    seed: int
    split: Split
    settings: ProbeSettings
    folders: Mapping[str, str]
    """Site -> where its probe goes."""
    bootstrap: int
    confidence: float
    threads: int
    device: str

    def __call__(self) -> int:
        """Train and write every probe of the task; returns how many."""
        import torch

        if self.threads:
            torch.set_num_threads(self.threads)
        inputs, split = self.inputs, self.split
        features = {site: inputs.features(site) for site in self.sites}
        bank = train_bank(
            features,
            inputs.rows.labels_N,
            split.train,
            split.valid,
            self.settings,
            seeds=(self.seed,),
            device=self.device,
        )
        for site in self.sites:
            trained = bank.trained[site, self.seed]
            probe, result = measure(
                trained,
                features[site],
                inputs.rows,
                split,
                model_name=inputs.model_name,
                resamples=self.bootstrap,
                confidence=self.confidence,
            )
            with appearing(self.folders[site]) as partial:
                write_probe(partial, probe, result)
        return len(self.sites)


def run_tasks(tasks: Sequence[BankTask], resources: ResourcesConfig) -> Iterator[int]:
    """Carry the tasks out, here or by Ray; yields how many probes each has written."""
    if resources.workers == 1 and not resources.gpus_per_worker and resources.address is None:
        for task in tasks:
            yield task()
        return
    import ray
    from ray.exceptions import RayTaskError

    from sightline.distributed import session

    session.connect_for(resources)
    remote = ray.remote(BankTask.__call__).options(
        num_cpus=resources.cpus_per_worker, num_gpus=resources.gpus_per_worker, max_retries=3
    )
    pending = [remote.remote(task) for task in tasks]
    try:
        while pending:
            (ready,), pending = ray.wait(pending, num_returns=1)
            yield ray.get(ready)
    except RayTaskError as error:
        if isinstance(error.cause, SightlineError):
            raise error.cause from error
        raise


@contextmanager
def appearing(final: str | os.PathLike[str]) -> Iterator[Path]:
    """A fresh folder to write into; it gets its name when all is written, or goes away.

    What a kill leaves lies in `.tmp` beside it, which the next start empties.
    """
    target = Path(final)
    partial = target.parent / ".tmp" / f"{uuid.uuid4().hex}-{target.name}"
    partial.mkdir(parents=True)
    try:
        yield partial
        if not target.exists():
            partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
