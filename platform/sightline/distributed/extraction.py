"""Extract activations and labels on Ray into a store that is proven whole.

    <folder>/activations/          the store: part-000000.h5 ..., manifest.json, expected.parquet
    <folder>/activations/errors.parquet   the rows that failed, with the reason
    <folder>/extract_report.json   counts: rows, labels, failures, time

Every shard is kept and found again, so a run that was killed goes on where it stopped.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sightline.activations.manifest import write_manifest
from sightline.activations.parts import PartRecord, write_part
from sightline.activations.sites import Site, default_layers, sites_at
from sightline.activations.store import ActivationStore
from sightline.activations.verify import verify
from sightline.config.dataset import WorldDataset
from sightline.config.extract import ExtractConfig, ExtractSettings
from sightline.config.model import ModelConfig
from sightline.config.resources import ResourcesConfig
from sightline.data.examples import check_images
from sightline.data.labels import join_labels, read_labels
from sightline.data.tables import LABEL
from sightline.distributed.extract_worker import ExtractWorker, ExtractWorkerConfig, has_truth
from sightline.distributed.mining import lexicon
from sightline.distributed.parts import Kept
from sightline.distributed.progress import LOGGER
from sightline.distributed.shard_plan import success_name
from sightline.distributed.shards import ShardedRun, run_sharded
from sightline.distributed.sources import load_examples
from sightline.distributed.storage import Storage
from sightline.errors import ConfigError, DataError, StorageError
from sightline.metrics.objects import Lexicon
from sightline.preference import judges
from sightline.records import Example

REPORT = "extract_report.json"
STORE = "activations"


@dataclass(frozen=True, slots=True)
class Extracted:
    """Where the store is, and what the report says. `rows` are in it; `failed` are put aside."""

    folder: str
    rows: int
    failed: int
    report: dict[str, Any]

    def counts(self) -> dict[str, float]:
        """The report's numbers worth following from run to run; the rate only where nothing was resumed."""
        labels = self.report["labels"]
        totals = {name: self.report[name] for name in ("rows", "images", "failed_rows", "rows_per_s")}
        totals |= {name: labels[name] for name in ("hallucinated", "right", "unknown")}
        return {name: float(value) for name, value in totals.items() if value is not None}


@dataclass(frozen=True, slots=True)
class ActivationParts:
    """A part of a run as a part of an activation store."""

    sites: tuple[str, ...]
    suffix: str = ".h5"

    def write(self, storage: Storage, name: str, batches: Sequence[Kept]) -> dict[str, Any]:
        columns = {
            column: np.concatenate([batch.columns[column][batch.keep_N] for batch in batches])
            for column in batches[0].columns
        }
        record = write_part(
            f"{storage.uri}/{name}",
            ids=columns.pop("example_id").tolist(),
            features={site: columns.pop(site) for site in self.sites},
            columns=columns,
        )
        return {"bytes": record.bytes, "part": record.to_json()}


@dataclass(frozen=True, slots=True)
class Extraction:
    """One run: which model's activations, under which settings, and where to."""

    model: ModelConfig
    settings: ExtractSettings
    resources: ResourcesConfig
    folder: str
    labels: str | None = None
    """A file of labels that replaces judging; null = those of the dataset, or judged answers."""
    ray: bool = True
    """False runs everything in this process, in a plain loop."""

    def __call__(self, examples: Sequence[Example]) -> Extracted:
        """Extract from `examples`, and verify the store. Raises before any work if that cannot be."""
        if self.labels is not None:
            examples = join_labels(examples, read_labels(self.labels), self.labels)
        missing = check_images(examples)
        if missing:
            LOGGER.warning("%d rows name images that do not exist; they will fail", len(missing))
        sites = sites_of(self.model, self.settings)
        given = any(LABEL in e.meta for e in examples)
        answers = wants_answers(examples, self.settings)
        run = self._run(examples, sites, answers=answers, judged=not given)
        if run.rows == 0:
            first = run.error_rows()[0]
            raise DataError(
                expected="at least one question that the model could take",
                got=f"{run.errors} failures, the first being {first['row_id']}: {first['error']}",
            )
        self._finish_store(examples, run, sites)
        report = self._report(examples, run)
        Storage.at(self.folder).write_json(REPORT, report)
        return Extracted(run.storage.uri, run.rows, run.errors, report)

    def _run(
        self, examples: Sequence[Example], sites: Sequence[Site], *, answers: bool, judged: bool
    ) -> ShardedRun:
        settings = self.settings
        names = tuple(site.name for site in sites)
        words = lexicon(settings)
        judges.make(settings.judge, Lexicon(words))  # refused here, before any work
        config = ExtractWorkerConfig(self.model, settings, names, words, answers, judged)
        asked = settings.model_dump(mode="json", exclude={"sites", "layers", "answers", *_PORTIONS})
        return run_sharded(
            [example.to_row() for example in examples],
            ExtractWorker,
            config,
            f"{self.folder}/{STORE}",
            shard_rows=settings.shard_rows,
            batch_size=settings.shard_rows,  # the worker cuts a shard itself, to read ahead in it
            workers=self.resources.workers,
            cpus_per_worker=self.resources.cpus_per_worker,
            gpus_per_worker=self.resources.gpus_per_worker,
            id_column="example_id",
            group_column="image_uri",
            identity={
                "model": model_identity(self.model),
                "sites": list(names),
                "extraction": asked | {"answers": answers, "judged": judged},
                "lexicon": hashlib.sha256(repr(sorted(words.items())).encode()).hexdigest()[:32],
            },
            parts=ActivationParts(names),
            ray=self.ray,
            describe="extract",
        )

    def _finish_store(self, examples: Sequence[Example], run: ShardedRun, sites: Sequence[Site]) -> None:
        """Write the manifest, read everything back, and say what was found.

        Raises StorageError if the store is not whole; its damaged parts are then redone by the
        next start of the same run.
        """
        records = [PartRecord.from_json(success["part"]) for success in run.successes()]
        write_manifest(
            run.storage.uri,
            records,
            sites=sites,
            expected_ids=[example.example_id for example in examples],
            quarantined={row["row_id"]: row["error"] for row in run.error_rows()},
            meta={
                "model": self.model.model_dump(mode="json") | model_identity(self.model),
                "extraction": self.settings.model_dump(mode="json", exclude=set(_PORTIONS)),
                "labels": self.labels or "",
            },
        )
        found = verify(run.storage.uri)
        for line in found.lines():
            LOGGER.info("activations: %s", line)
        if not found.ok:
            for shard, record in enumerate(records):
                if any(fault.startswith(f"{record.name}:") for fault in found.faults):
                    run.storage.delete(success_name(shard))
            raise StorageError(
                expected=f"a whole store at {run.storage.uri}",
                got="; ".join(found.faults[:3]),
                hint="start the same run again: it redoes the damaged parts alone",
            )

    def _report(self, examples: Sequence[Example], run: ShardedRun) -> dict[str, Any]:
        store = ActivationStore.open(run.storage.uri)
        labels_N, kinds_N = store.column(LABEL), store.column("kind")
        fresh_s = max(run.elapsed_s, 1e-9)
        return {
            "examples": len(examples),
            "images": len({e.image_uri for e in examples}),
            "rows": run.rows,
            "failed_rows": run.errors,
            "shards": run.shards,
            "resumed_shards": run.resumed,
            "elapsed_s": round(run.elapsed_s, 1),
            "rows_per_s": round(run.rows / fresh_s, 2) if not run.resumed else None,
            "sites": store.widths,
            "labels": {
                "from": dict(Counter(store.column("judge").tolist())),
                **_counted(labels_N),
                "by_kind": {
                    str(kind): _counted(labels_N[kinds_N == kind]) for kind in sorted(set(kinds_N.tolist()))
                },
            },
            "model": self.model.model_dump(mode="json"),
            "extraction": self.settings.model_dump(mode="json"),
        }


_PORTIONS = ("batch_size", "shard_rows", "readers")
"""Settings of how the work is portioned, which its results do not depend on."""


def wants_answers(examples: Sequence[Example], settings: ExtractSettings) -> bool:
    """Whether the model has to answer. Raises ConfigError where it has to and may not."""
    pooled = "answer_mean" in settings.sites
    if settings.answers == "never" and pooled:
        raise ConfigError(expected="extraction.answers other than never, for answer_mean", got="never")
    judged = not any(LABEL in e.meta for e in examples) and any(map(has_truth, examples))
    return settings.answers == "always" or (settings.answers == "needed" and (pooled or judged))


def sites_of(model: ModelConfig, settings: ExtractSettings) -> tuple[Site, ...]:
    """The sites to extract, checked against the model's architecture without loading its weights."""
    from sightline.models.meta import architecture, build_on_meta, measure

    blocks = measure(build_on_meta(architecture(model.source, revision=model.revision))).text_blocks
    layers = settings.layers if settings.layers is not None else default_layers(blocks)
    if max(layers) >= blocks:
        raise ConfigError(
            expected=f"extraction.layers from -1 to {blocks - 1}: {model.source} has {blocks} blocks",
            got=str(max(layers)),
        )
    return sites_at(settings.sites, layers)


def model_identity(model: ModelConfig) -> dict[str, Any]:
    """What the activations depend on: the hash of the files, and the numerics."""
    from sightline.models.identity import identity_of_files
    from sightline.models.loading import resolve

    weights = identity_of_files(resolve(model.source, model.revision)[0], model.adapter)
    return {"identity": weights, **model.model_dump(mode="json", include={"dtype", "attention"})}


def plan(config: ExtractConfig) -> str:
    """What `jobs/extract.py` would do, as text, without writing anything or loading the model."""
    from sightline.models.meta import architecture, build_on_meta, measure

    settings, model, asked = config.extraction, config.model, config.resources
    size = measure(build_on_meta(architecture(model.source, revision=model.revision)))
    sites = sites_of(model, settings)
    row_bytes = sum(4 * (size.vision_width if s.layer is None else size.text_width) for s in sites)
    judges.make(settings.judge, Lexicon(lexicon(settings)))
    labels = f"the dataset's, else judged ({settings.judge})"
    given = read_labels(config.labels) if config.labels else {}
    if config.labels:
        labels = f"{len(given)} from {config.labels}"
    if isinstance(config.dataset, WorldDataset):
        kinds = ", ".join(config.dataset.kinds or ("all",))
        data = f"{config.dataset.scenes} scenes of the embedded world; questions: {kinds}"
    else:
        examples = load_examples(config.dataset, scratch=config.run.folder)
        if config.labels:
            examples = join_labels(examples, given, config.labels)
            labels += f", for {sum(LABEL in e.meta for e in examples)} of the questions"
        missing = check_images(examples)
        images = len({e.image_uri for e in examples})
        data = f"{len(examples)} questions about {images} images; {len(missing)} rows without their file"
    sections = {
        "model": f"{model.source}: {size.text_blocks} blocks, width {size.text_width}, "
        f"vision {size.vision_width}",
        "data": data,
        "sites": f"{len(sites)}: {', '.join(site.name for site in sites)}",
        "labels": labels,
        "answers": settings.answers,
        "a row": f"{row_bytes / 1024:.1f} KiB in float32, half of it for a bfloat16 model",
        "shards": f"of {settings.shard_rows} questions, {settings.batch_size} a forward pass",
        "workers": f"{asked.workers}, each {asked.cpus_per_worker:g} CPUs, {asked.gpus_per_worker:g} GPUs",
        "output": f"{config.run.folder}/{STORE}",
    }
    return "".join(f"{name:<12} {value}\n" for name, value in sections.items())


def _counted(labels_N: np.ndarray) -> dict[str, int]:
    return {
        "hallucinated": int((labels_N == 1).sum()),
        "right": int((labels_N == 0).sum()),
        "unknown": int(np.isnan(labels_N).sum()),
    }
