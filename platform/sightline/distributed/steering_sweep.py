"""`tune/steering.py`: derive, search, choose, confirm, show.

    <run>/plan.json              what it searches; another search does not mix with it
    <run>/directions/mask-0.99/  directions for each mask ratio, as jobs/directions.py keeps them
    <run>/search/                Ray Tune's snapshots
    <run>/trials.json            every trial, once the search is through
    <run>/confirm/before, after/ answers to the untouched questions, as it is and as chosen
    <run>/chosen.yaml            the chosen mitigations, for any `--config`
    <run>/report.json, pareto.png

Trials are judged on the world's `val` scenes (or `search.dataset`). What the best of many draws
promises is too much, so the chosen point is asked once more on `test` scenes that no trial saw
(or `evaluation.dataset`), question by question beside the model as it is.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import yaml

from sightline.config.dataset import WorldDataset
from sightline.config.directions import DirectionsConfig, Mask
from sightline.config.mitigations import mitigations_of
from sightline.config.sweep_steering import SweepSteeringConfig
from sightline.data.examples import check_images
from sightline.distributed.directions import Derivation, load_pairs
from sightline.distributed.extraction import model_identity
from sightline.distributed.mining import lexicon
from sightline.distributed.progress import LOGGER, duration
from sightline.distributed.shard_plan import agree_on_plan
from sightline.distributed.sources import load_examples
from sightline.distributed.steering_confirm import confirm, headline
from sightline.distributed.steering_trials import SteeringTask, search
from sightline.distributed.storage import Storage
from sightline.distributed.tracking import TrackedRun
from sightline.errors import DataError
from sightline.evaluation.predictions import Prediction
from sightline.evaluation.run_folder import RunFolder, write_json
from sightline.evaluation.scoring import tally
from sightline.evaluation.steering_figure import pareto_png
from sightline.evaluation.steering_search import (
    SteeringChoices,
    SteeringTrial,
    baseline_of,
    choose,
    objectives,
    pareto,
)
from sightline.models.meta import architecture, build_on_meta, measure
from sightline.records import Example

TRIALS, REPORT, FIGURE, CHOSEN = "trials.json", "report.json", "pareto.png", "chosen.yaml"


@dataclass(slots=True)
class SteeringSweep:
    """One sweep in its folder. Call `search`, then `finish`."""

    config: SweepSteeringConfig
    folder: RunFolder
    manifest: Mapping[str, Any]
    timings_s: dict[str, float] = field(default_factory=dict)
    words: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        """Raises ConfigError for objectives nobody will measure, StorageError for another sweep's folder."""
        self.words = lexicon(self.config)
        check_objectives(self._judged_on(), self.config, self.words)
        skip = {"run", "resources", "dry_run"}
        plan = model_identity(self.config.model) | self.config.model_dump(mode="json", exclude=skip)
        agree_on_plan(Storage.at(self.folder.path), plan)

    # -- the search -------------------------------------------------------------------------
    def search(self, tracking: TrackedRun) -> list[SteeringTrial]:
        """Every trial; found finished, they are read."""
        if self.folder.exists(TRIALS):
            return [SteeringTrial.from_json(value) for value in self.folder.read_json(TRIALS)]
        config = self.config
        with self._stage("directions"):
            choices = SteeringChoices(config.space, self._directions(), self._blocks())
        task = SteeringTask(choices, config.model, config.evaluation, config.objectives, self.words)
        asked = self._judged_on()
        with self._stage("search"):
            trials = search(
                task, asked, config.search, config.resources, self.folder.path / "search", tracking
            )
        write_json(self.folder, TRIALS, [trial.to_json() for trial in trials])
        return trials

    def _directions(self) -> dict[str, str]:
        """Mask ratio -> folder of its directions; none where no trial takes them."""
        config = self.config
        found: dict[str, str] = {}
        if not {"vti", "steer"} & set(config.space.methods):
            return {}
        pairs = load_pairs(config.pairs, scratch=str(self.folder.path / "data"))
        for ratio in config.space.mask_ratio:
            asked = DirectionsConfig(
                model=config.model,
                pairs=config.pairs,
                perturbation=Mask(ratio=ratio),
                derive=config.derive,
                resources=config.resources,
            )
            folder = self.folder.path / "directions" / f"mask-{ratio:g}"
            found[f"{ratio:g}"] = Derivation(asked, str(folder))(pairs).folder
        return found

    def _blocks(self) -> int:
        model = self.config.model
        return measure(build_on_meta(architecture(model.source, revision=model.revision))).text_blocks

    def _judged_on(self) -> list[Example]:
        """The examples of the benchmarks that the objectives name."""
        config = self.config
        dataset = config.search.dataset or WorldDataset(scenes=config.search.scenes, seed=config.search.seed)
        examples = load_examples(dataset, scratch=self.folder.path / "data", split="val")
        named = (*config.objectives.hallucination, *config.objectives.kept)
        benchmarks = {name.rpartition(".")[0] for name in named}
        return [example for example in examples if (example.split or example.kind) in benchmarks]

    # -- the confirmation -------------------------------------------------------------------
    def finish(self, trials: Sequence[SteeringTrial], tracking: TrackedRun) -> dict[str, Any]:
        """Choose, confirm on untouched examples, write report and figure. Returns the report.

        Raises DataError if the trial of the model as it is failed.
        """
        config = self.config
        baseline = baseline_of(trials)
        if baseline is None:
            raise DataError(
                expected="a finished trial of the model as it is",
                got="; ".join({trial.error for trial in trials if trial.error}) or "none",
            )
        chosen = choose(trials, baseline, margin=config.objectives.margin)
        confirmed = None
        if chosen is not None:
            with self._stage("confirm"):
                confirmed = confirm(config, self.folder.path, self.words, chosen)
        report = {
            "name": config.run.name,
            "headline": headline(baseline, chosen, confirmed),
            "model_name": config.model.source,
            "objectives": config.objectives.model_dump(mode="json"),
            "baseline": baseline.to_json(),
            "chosen": chosen.to_json() if chosen is not None else None,
            "confirmed": confirmed,
            "pareto": [trial.trial_id for trial in pareto(trials)],
            "loads": len({trial.process for trial in trials if trial.process}),
            "confidence": config.evaluation.confidence,
            "trials": [trial.to_json() for trial in trials],
            "timings_s": self.timings_s,
            "run": dict(self.manifest),
        }
        self._write(report, chosen, tracking)
        return report

    def _write(self, report: Mapping[str, Any], chosen: SteeringTrial | None, tracking: TrackedRun) -> None:
        """The report last, so that it stands for a finished sweep."""
        folder = self.folder
        if chosen is not None:
            items = [item.model_dump(mode="json") for item in mitigations_of(chosen.mitigations)]
            text = yaml.safe_dump({"mitigations": items}, sort_keys=False)
            folder.write_bytes(CHOSEN, text.encode())
        folder.write_bytes(FIGURE, pareto_png(report))
        write_json(folder, REPORT, report)
        tracking.log(_figures_of(report), step=0)
        for name in (REPORT, FIGURE):
            tracking.attach(folder.path / name)
        LOGGER.info("%s", report["headline"])
        LOGGER.info("figure: %s", folder.path / FIGURE)

    @contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        started = time.monotonic()
        yield
        self.timings_s[name] = round(time.monotonic() - started, 1)
        LOGGER.info("%s: %s", name, duration(self.timings_s[name]))


def check_objectives(
    examples: Sequence[Example], config: SweepSteeringConfig, words: Mapping[str, str]
) -> None:
    """Before any work: will the named scores be measured? Scores the truths as if a model had said them.

    Raises DataError where images are missing, ConfigError for a score that nobody measures.
    """
    if missing := check_images(examples):
        raise DataError(
            expected="every image to exist",
            got=f"{len(missing)} rows without, the first of {missing[0].image_uri}",
        )
    perfect = [Prediction(example, example.answer) for example in examples]
    tallies = tally(perfect, lexicon=words, parser=config.evaluation.parser)
    measured = {f"{name}.{metric}": 0.0 for name, counts in tallies.items() for metric in counts.ratios}
    objectives(measured, config.objectives)


def _figures_of(report: Mapping[str, Any]) -> dict[str, float]:
    """The report's numbers worth following from run to run."""
    values = {f"search/baseline_{name}": report["baseline"][name] for name in ("hallucination", "kept")}
    if report["chosen"] is not None:
        values |= {f"search/chosen_{name}": report["chosen"][name] for name in ("hallucination", "kept")}
        for side in ("before", "after"):
            values |= {f"confirm/{side}_{name}": v for name, v in report["confirmed"][side].items()}
    return {name: float(value) for name, value in values.items() if not math.isnan(value)}


def plan(config: SweepSteeringConfig) -> str:
    """What `tune/steering.py` would do, as text, without writing anything or loading the model."""
    space, search_, asked = config.space, config.search, config.resources
    size = measure(build_on_meta(architecture(config.model.source, revision=config.model.revision)))
    judged = f"{search_.scenes} `val` scenes of the world" if search_.dataset is None else "search.dataset"
    held = config.evaluation
    untouched = f"{held.scenes} `test` scenes of the world" if held.dataset is None else "evaluation.dataset"
    sections = {
        "model": f"{config.model.source}: {size.text_blocks} blocks",
        "searched": f"{', '.join(space.methods)} under {', '.join(space.decoders)}",
        "directions": f"mask ratios {', '.join(f'{ratio:g}' for ratio in space.mask_ratio)}",
        "lowered": ", ".join(config.objectives.hallucination),
        "kept": f"{', '.join(config.objectives.kept)}, within {config.objectives.margin:g}",
        "trials": f"{search_.trials}, {search_.random_trials} of them before TPE, on {judged}",
        "confirmed on": untouched,
        "workers": f"{asked.workers}, each one loaded model, {asked.cpus_per_worker:g} CPUs, "
        f"{asked.gpus_per_worker:g} GPUs",
        "output": config.run.folder,
    }
    return "".join(f"{name:<13} {value}\n" for name, value in sections.items())
