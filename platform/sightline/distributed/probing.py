"""`jobs/probe.py`: train the bank, measure it beside its controls, keep every probe by itself.

    <run>/probes/<site>/            probe, results.json and figures; `<site>.seed_43` for further seeds
    <run>/probes/plan.json          what they were trained from; other probes do not mix with them
    <run>/controls.json
    <run>/bank.png, summary.html, report.json

All sites that still lack their probe learn in one pass a seed. A probe's folder appears whole,
by one rename, so a run that was killed goes on with those that have none.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sightline.config.probe import ProbeConfig
from sightline.distributed.bank_tasks import BankTask, run_tasks
from sightline.distributed.probe_inputs import ProbeInputs
from sightline.distributed.probe_tracking import note_bank, note_probe
from sightline.distributed.progress import LOGGER, Progress, duration
from sightline.distributed.shard_plan import agree_on_plan
from sightline.distributed.storage import Storage
from sightline.distributed.tracking import TrackedRun
from sightline.errors import DataError
from sightline.evaluation.run_folder import RunFolder, write_json
from sightline.probes.bank import refusals
from sightline.probes.controls import IMAGE_SITE, run_controls
from sightline.probes.report import FIGURE, PAGE, RESULTS, bank_report, write_bank
from sightline.probes.splits import Split

CONTROLS, REPORT = "controls.json", "report.json"


@dataclass(slots=True)
class ProbeRun:
    """One run in its folder. Call `train`, then `finish`."""

    config: ProbeConfig
    inputs: ProbeInputs
    folder: RunFolder
    manifest: Mapping[str, Any]
    refused: dict[str, str] = field(default_factory=dict)
    """Site -> why it has no probe; known after `train`."""
    timings_s: dict[str, float] = field(default_factory=dict)

    def train(self) -> list[dict[str, Any]]:
        """Every probe's results.json, those of an earlier start included.

        Raises StorageError if the folder holds probes of other data or settings, and DataError
        if no site can be probed.
        """
        started = time.monotonic()
        split = self.inputs.split(self.config.split)
        self._agree()
        self.refused = self._refusals()
        usable = [site for site in self.inputs.sites if site not in self.refused]
        if not usable:
            raise DataError(expected="a site that can be probed", got=next(iter(self.refused.values())))
        wanted = [(site, seed) for seed in self.config.seeds for site in usable]
        missing = [pair for pair in wanted if not self._results(*pair).is_file()]
        LOGGER.info("probes: %d to train, %d found finished", len(missing), len(wanted) - len(missing))
        progress = Progress("probes", total=len(wanted), unit="probe", done=len(wanted) - len(missing))
        done = len(wanted) - len(missing)
        for count in run_tasks(self._tasks(missing, split), self.config.resources):
            done += count
            progress.update(done)
        results = [self.folder.read_json(str(self._results(*pair))) for pair in wanted]
        self._measure_controls(split, results)
        self.timings_s["probes"] = round(time.monotonic() - started, 1)
        LOGGER.info("probes: done in %s", duration(self.timings_s["probes"]))
        return results

    def finish(self, results: Sequence[Mapping[str, Any]], tracking: TrackedRun) -> dict[str, Any]:
        """Write report.json, the bank's figure and its page, note all in MLflow; returns the report."""
        controls = self.folder.read_json(CONTROLS)
        report = bank_report(results, controls, refused=self.refused, manifest=self.manifest)
        report["timings_s"] = self.timings_s
        write_bank(self.folder.path, report)
        write_json(self.folder, REPORT, report)
        for result in results:
            note_probe(tracking, self.probe_folder(result["site"], result["seed"]).name, result)
        note_bank(tracking, report)
        for name in (REPORT, FIGURE, PAGE):
            tracking.attach(self.folder.path / name)
        LOGGER.info("%s", report["headline"])
        LOGGER.info("%s", report["remark"])
        LOGGER.info("summary: %s", self.folder.path / PAGE)
        return report

    def probe_folder(self, site: str, seed: int) -> Path:
        first = seed == self.config.seeds[0]
        return self.folder.path / "probes" / (site if first else f"{site}.seed_{seed}")

    def _results(self, site: str, seed: int) -> Path:
        return self.probe_folder(site, seed) / RESULTS

    def _agree(self) -> None:
        """Refuse a folder whose probes came from other rows, features or settings."""
        plan = self.inputs.identity() | {
            "label": self.config.label,
            "probe": self.config.probe.model_dump(mode="json"),
            "split": self.config.split.model_dump(mode="json"),
            "first_seed": self.config.seeds[0],
            "intervals": [self.config.bootstrap, self.config.confidence],
        }
        storage = Storage.at(self.folder.path / "probes")
        storage.clear_temporary()
        agree_on_plan(storage, plan)

    def _refusals(self) -> dict[str, str]:
        """One site in memory at a time."""
        found: dict[str, str] = {}
        for site in self.inputs.sites:
            found |= refusals({site: self.inputs.features(site)}, self.inputs.rows.labels_N)
        for site, why in found.items():
            LOGGER.warning("%s has no probe: %s", site, why)
        return found

    def _tasks(self, missing: Sequence[tuple[str, int]], split: Split) -> list[BankTask]:
        """One task a seed, or as many as there are workers."""
        tasks = []
        for seed in self.config.seeds:
            sites = [site for site, of in missing if of == seed]
            for start in range(min(self.config.resources.workers, len(sites))):
                share = tuple(sites[start :: self.config.resources.workers])
                folders = {site: str(self.probe_folder(site, seed)) for site in share}
                tasks.append(
                    BankTask(
                        inputs=self.inputs,
                        sites=share,
                        seed=seed,
                        split=split,
                        settings=self.config.probe,
                        folders=folders,
                        bootstrap=self.config.bootstrap,
                        confidence=self.config.confidence,
                        threads=self.config.threads,
                        device="cuda" if self.config.resources.gpus_per_worker else "cpu",
                    )
                )
        return tasks

    def _measure_controls(self, split: Split, results: Sequence[Mapping[str, Any]]) -> None:
        """Once a run. `shuffled_labels` is run at the site that does best on validation rows."""
        if self.folder.exists(CONTROLS):
            return
        LOGGER.info("controls: start")
        best = max(results, key=lambda result: result["valid_set"]["auroc"] or 0.0)["site"]
        image_only = [site.name for site in self.inputs.store.sites if site.name == IMAGE_SITE]
        found = run_controls(
            self.inputs.rows,
            split,
            self.config.probe,
            features={site: self.inputs.features(site) for site in dict.fromkeys([*image_only, best])},
            seed=self.config.seeds[0],
            resamples=self.config.bootstrap,
            confidence=self.config.confidence,
        )
        write_json(self.folder, CONTROLS, found)
