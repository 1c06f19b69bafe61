"""`tune/probe.py`: search, refit, compare, show.

    <run>/plan.json       what it searches; another search does not mix with it
    <run>/search/         Ray Tune's snapshots
    <run>/trials.json     every trial, once the search is through
    <run>/winner/         the best probe, as jobs/probe.py keeps one
    <run>/winner.yaml     its settings, for `python jobs/probe.py --config`
    <run>/report.json, search.png

The search learns from the split's `train` rows and chooses by `valid`. What it promises is the
best of many draws, hence too much; so the winner and the default are refitted over seeds and
compared on `test`, which no trial was given. The default is the job's own probe at the site
where it does best on `valid`: both sides may choose their site, on the same rows.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml

from sightline.config.probing import ProbeSettings
from sightline.config.sweep_probe import SweepProbeConfig
from sightline.distributed.bank_tasks import appearing
from sightline.distributed.probe_inputs import ProbeInputs
from sightline.distributed.progress import LOGGER, duration
from sightline.distributed.shard_plan import agree_on_plan
from sightline.distributed.storage import Storage
from sightline.distributed.sweeps import SearchData, search
from sightline.distributed.tracking import TrackedRun
from sightline.errors import DataError
from sightline.evaluation.run_folder import RunFolder, write_json
from sightline.metrics.bootstrap import Difference
from sightline.metrics.detection import auroc
from sightline.probes.bank import Trained, refusals, train_bank
from sightline.probes.report import write_probe
from sightline.probes.results import measure
from sightline.probes.search import SearchSpace, Trial, best_of, compare
from sightline.probes.search_figure import search_png
from sightline.probes.splits import Split

TRIALS, REPORT, FIGURE, WINNER = "trials.json", "report.json", "search.png", "winner"


@dataclass(frozen=True, slots=True)
class Refit:
    """One side of the comparison: settings at a site, trained with every seed."""

    site: str
    settings: ProbeSettings
    trained: tuple[Trained, ...]
    test_SN: tuple[npt.NDArray[np.float64], ...]
    """Logits of the test rows, one array a seed."""
    valid_auroc: float
    """Mean over seeds."""

    def to_json(self) -> dict[str, Any]:
        return {
            "site": self.site,
            "settings": self.settings.model_dump(mode="json"),
            "valid_auroc": self.valid_auroc,
        }


@dataclass(slots=True)
class ProbeSweep:
    """One sweep in its folder. Call `search`, then `finish`."""

    config: SweepProbeConfig
    inputs: ProbeInputs
    folder: RunFolder
    manifest: Mapping[str, Any]
    timings_s: dict[str, float] = field(default_factory=dict)
    split: Split = field(init=False)
    sites: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        """Raises DataError if no site can be probed, StorageError if the folder is of another sweep."""
        self.split = self.inputs.split(self.config.split)
        labels_n = self.inputs.rows.labels_N
        refused: dict[str, str] = {}
        for site in self.inputs.sites:
            refused |= refusals({site: self.inputs.features(site)}, labels_n)
        self.sites = tuple(site for site in self.inputs.sites if site not in refused)
        for site, why in refused.items():
            LOGGER.warning("%s is not searched: %s", site, why)
        if not self.sites:
            raise DataError(expected="a site that can be probed", got=next(iter(refused.values())))
        skip = {"run", "resources", "activations", "dry_run", "seeds", "bootstrap", "confidence"}
        plan = self.inputs.identity() | self.config.model_dump(mode="json", exclude=skip)
        agree_on_plan(Storage.at(self.folder.path), plan)

    def search(self, tracking: TrackedRun) -> list[Trial]:
        """Every trial; found finished, they are read."""
        if self.folder.exists(TRIALS):
            return [Trial.from_json(value) for value in self.folder.read_json(TRIALS)]
        started = time.monotonic()
        config, split = self.config, self.split
        rows = np.concatenate([split.train, split.valid])  # the test rows stay here
        data = SearchData(
            space=SearchSpace(self.sites, config.space, config.search.patience),
            base=config.probe,
            labels_N=self.inputs.rows.labels_N[rows],
            train_rows=len(split.train),
            seed=config.seeds[0],
            device=self._device,
        )
        features = {site: self.inputs.features(site)[rows] for site in self.sites}
        trials = search(
            data, features, config.search, config.resources, self.folder.path / "search", tracking
        )
        write_json(self.folder, TRIALS, [trial.to_json() for trial in trials])
        self.timings_s["search"] = round(time.monotonic() - started, 1)
        LOGGER.info("search: %d trials in %s", len(trials), duration(self.timings_s["search"]))
        return trials

    def finish(self, trials: Sequence[Trial], tracking: TrackedRun) -> dict[str, Any]:
        """Refit both sides, open the test rows, and write report, figure and winner. Returns the report.

        Raises DataError if every trial failed.
        """
        config, rows, split = self.config, self.inputs.rows, self.split
        best = best_of(trials)
        if best is None:
            raise DataError(
                expected="a trial that did not fail", got=f"{len(trials)} that did: {trials[0].error}"
            )
        space = SearchSpace(self.sites, config.space, config.search.patience)
        winner = self._refit(best.site, space.settings(best.choice, config.probe))
        default = self._refit(self._default_site(), config.probe)
        before, after, difference = compare(
            rows.labels_N[split.test],
            default.test_SN,
            winner.test_SN,
            [rows.images[i] for i in split.test],
            resamples=config.bootstrap,
            level=config.confidence,
        )
        report = {
            "name": config.run.name,
            "headline": headline(winner, default, difference),
            "model_name": self.inputs.model_name,
            "winner": winner.to_json() | {"trial": best.to_json(), "test_auroc": asdict(after)},
            "default": default.to_json() | {"test_auroc": asdict(before)},
            "difference": asdict(difference),
            "confidence": config.confidence,
            "split": split.name,
            "rows": {side: len(getattr(split, side)) for side in ("train", "valid", "test")},
            "seeds": list(config.seeds),
            "trials": [trial.to_json() for trial in trials],
            "timings_s": self.timings_s,
            "run": dict(self.manifest),
        }
        self._write(report, winner, tracking)
        return report

    def _default_site(self) -> str:
        """Where the default probe does best on the rows that the search chose by."""
        labels_n, split = self.inputs.rows.labels_N, self.split
        features = {site: self.inputs.features(site) for site in self.sites}
        bank = train_bank(
            features,
            labels_n,
            split.train,
            split.valid,
            self.config.probe,
            seeds=self.config.seeds[:1],
            device=self._device,
        )
        scores = {
            site: auroc(labels_n[split.valid], trained.probe.logits(features[site][split.valid]))
            for (site, _), trained in bank.trained.items()
        }
        return max(scores, key=lambda site: scores[site])

    def _refit(self, site: str, settings: ProbeSettings) -> Refit:
        labels_n, split, seeds = self.inputs.rows.labels_N, self.split, self.config.seeds
        features_ND = self.inputs.features(site)
        bank = train_bank(
            {site: features_ND},
            labels_n,
            split.train,
            split.valid,
            settings,
            seeds=seeds,
            device=self._device,
        )
        trained = tuple(bank.trained[site, seed] for seed in seeds)
        valid = [auroc(labels_n[split.valid], t.probe.logits(features_ND[split.valid])) for t in trained]
        test_SN = tuple(t.probe.logits(features_ND[split.test]) for t in trained)
        return Refit(site, settings, trained, test_SN, float(np.mean(valid)))

    def _write(self, report: Mapping[str, Any], winner: Refit, tracking: TrackedRun) -> None:
        """The winner first and the report last, so that a report stands for a finished sweep."""
        folder, config = self.folder, self.config
        probe, result = measure(
            winner.trained[0],
            self.inputs.features(winner.site),
            self.inputs.rows,
            self.split,
            model_name=self.inputs.model_name,
            resamples=config.bootstrap,
            confidence=config.confidence,
        )
        shutil.rmtree(folder.path / WINNER, ignore_errors=True)
        with appearing(folder.path / WINNER) as partial:
            write_probe(partial, probe, result)
        again = {
            "activations": self.inputs.store.folder.uri,
            "label": config.label,
            "sites": [winner.site],
            "probe": winner.settings.model_dump(mode="json"),
            "split": config.split.model_dump(mode="json"),
            "seeds": list(config.seeds),
        }
        folder.write_bytes(f"{WINNER}.yaml", yaml.safe_dump(again, sort_keys=False).encode())
        folder.write_bytes(FIGURE, search_png(report))
        write_json(folder, REPORT, report)
        tracking.log(
            {
                "test/winner_auroc": report["winner"]["test_auroc"]["value"],
                "test/default_auroc": report["default"]["test_auroc"]["value"],
                "test/difference": report["difference"]["delta"],
                "valid/best_trial_auroc": report["winner"]["trial"]["auroc"],
            },
            step=0,
        )
        for name in (REPORT, FIGURE):
            tracking.attach(folder.path / name)
        LOGGER.info("%s", report["headline"])
        LOGGER.info("figure: %s", folder.path / FIGURE)

    @property
    def _device(self) -> str:
        return "cuda" if self.config.resources.gpus_per_worker else "cpu"


def headline(winner: Refit, default: Refit, difference: Difference) -> str:
    """One sentence with both scores, the difference and what it is worth."""
    if math.isnan(difference.low):
        verdict = "too few images to say more"
    elif difference.low > 0:
        verdict = "the search found a better probe"
    elif difference.high < 0:
        verdict = "the default is better"
    else:
        verdict = "within chance"
    return (
        f"On images the search never saw: AUROC {difference.after:.3f} for its best probe "
        f"({winner.settings.head} at {winner.site}), {difference.before:.3f} for the default "
        f"({default.settings.head} at {default.site}); difference {difference.delta:+.3f} "
        f"[{difference.low:+.3f}, {difference.high:+.3f}]: {verdict}."
    )
