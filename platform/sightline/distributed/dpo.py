"""The stages of preference optimisation, each kept in the run's folder and found again.

    <run>/data/        the world's scenes, where the dataset is the world
    <run>/embeddings, mined, pairs    what mining leaves (`mining.py`)
    <run>/reference/   log-probabilities under the reference model
    <run>/before, after/   answers to the held-out questions
    <run>/training/    pairs with their references, checkpoints, and the exported model
    <run>/report.json, report.html

`jobs/dpo.py` strings them together; a killed run started again finds what is finished.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sightline.config.dataset import WorldDataset
from sightline.config.dpo import DpoConfig
from sightline.config.model import ModelConfig
from sightline.data.pairs import check_pairs, read_pairs
from sightline.distributed.evaluation import predict
from sightline.distributed.mining import Mining, lexicon
from sightline.distributed.progress import LOGGER, duration
from sightline.distributed.reference_cache import Reference, identity_parts, reference_logprobs
from sightline.distributed.sources import load_examples
from sightline.distributed.tracking import TrackedRun
from sightline.distributed.trainer import Trained, train
from sightline.errors import ConfigError
from sightline.evaluation import report as reports
from sightline.evaluation.gate import check_measurable
from sightline.evaluation.predictions import Prediction
from sightline.evaluation.run_folder import RunFolder, write_json
from sightline.records import Example, PreferencePair

PROMOTED = "promoted.json"


@dataclass(slots=True)
class DpoRun:
    """One run in its folder. Call the stages in order; `finish` writes the report."""

    config: DpoConfig
    folder: RunFolder
    manifest: Mapping[str, Any]
    timings_s: dict[str, float] = field(default_factory=dict)
    mining: dict[str, Any] = field(default_factory=dict)
    """What mining reports; empty when pairs were given."""

    def pairs(self) -> list[PreferencePair]:
        """The given pairs, or freshly mined ones. Raises PairError or ImageError if unusable."""
        config = self.config
        if config.pairs is not None:
            return read_pairs(config.pairs)
        with self._stage("mining"):
            examples = load_examples(config.dataset, scratch=self._path("data"))
            mined = Mining(config.model, config.mining, config.resources, self._path(""))(examples)
            self.mining = {"pairs": mined.report["by_condition"], "dropped": mined.report["dropped"]}
            if mined.pairs == 0:
                check_pairs([], where=mined.pairs_folder)
            return read_pairs(mined.pairs_folder)

    def held_out(self) -> list[Example]:
        """The examples that both models are measured on; the first images are also described."""
        config = self.config
        asked = config.evaluation.dataset
        if asked is None and not isinstance(config.dataset, WorldDataset):
            raise ConfigError(
                expected="evaluation.dataset, the held-out examples, beside a dataset of your own",
                got="null",
                hint="give it a type and a path, as dataset has",
            )
        chosen = asked or WorldDataset(scenes=config.evaluation.scenes, seed=config.evaluation.seed)
        examples = load_examples(chosen, scratch=self._path("data"), split="test")
        described = [e.image_id for e in examples if e.kind == "caption"][: config.evaluation.captions]
        keep = set(described)
        held_out = [e for e in examples if e.kind != "caption" or e.image_id in keep]
        check_measurable(held_out, lexicon=lexicon(config.mining), settings=config.evaluation)
        return held_out

    def reference(self, pairs: Sequence[PreferencePair]) -> Reference:
        """Log-probabilities under the model as it is now."""
        with self._stage("reference"):
            identity = identity_parts(self.config)
            return reference_logprobs(self.config, pairs, self._path("reference"), identity=identity)

    def evaluate(self, side: str, examples: Sequence[Example], model: ModelConfig) -> list[Prediction]:
        """A model's answers; `side` is `before` or `after`."""
        with self._stage(f"evaluation {side}"):
            return predict(
                examples,
                model=model,
                settings=self.config.evaluation,
                resources=self.config.resources,
                out_dir=self._path(side),
                identity=identity_parts(self.config, model),
                describe=f"answers {side}",
            )

    def train(self, reference: Reference, tracking: TrackedRun) -> Trained:
        with self._stage("training"):
            return train(
                self.config,
                reference,
                self._path("training"),
                identity=identity_parts(self.config),
                tracking=tracking,
            )

    def trained_model(self, trained: Trained) -> ModelConfig:
        """How to load what training exported: an adapter on the model before, or a whole model."""
        model = self.config.model
        if (Path(trained.model) / "adapter_config.json").is_file():
            return model.model_copy(update={"adapter": trained.model})
        return model.model_copy(update={"source": trained.model, "revision": None, "adapter": None})

    def finish(
        self,
        before: Sequence[Prediction],
        after: Sequence[Prediction],
        trained: Trained,
        tracking: TrackedRun,
    ) -> dict[str, Any]:
        """Compare, decide, and write the report; a promoted model is named in promoted.json."""
        report = reports.assemble(
            manifest=self.manifest,
            config=self.config,
            before=before,
            after=after,
            lexicon=lexicon(self.config.mining),
            settings=self.config.evaluation,
            training=trained.history,
            mining=self.mining,
            timings_s=self.timings_s,
        )
        reports.write_report(self.folder, report)
        verdict = report["verdict"]
        if verdict["promote"]:
            write_json(self.folder, PROMOTED, {"model": trained.model, "because": verdict["sentence"]})
        else:
            (self.folder.path / PROMOTED).unlink(missing_ok=True)
        scores = {
            f"{side}/{row['benchmark']}.{row['metric']}": row[side]
            for row in report["comparison"]
            for side in ("before", "after")
            if row[side] is not None
        }
        tracking.log(scores, step=len(trained.history))
        for name in ("report.json", "report.html"):
            tracking.attach(self.folder.path / name)
        LOGGER.info("%s", report["headline"])
        LOGGER.info("%s", verdict["sentence"])
        LOGGER.info("report: %s", self.folder.path / "report.html")
        return report

    @contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        LOGGER.info("%s: start", name)
        started = time.monotonic()
        yield
        self.timings_s[name] = round(time.monotonic() - started, 1)
        LOGGER.info("%s: done in %s", name, duration(self.timings_s[name]))

    def _path(self, name: str) -> str:
        return str(Path(self.folder.path) / name)
