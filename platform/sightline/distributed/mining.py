"""Mine preference pairs on Ray: retrieve contexts, ask and judge, select, report.

    <folder>/embeddings/   one vector an image, for retrieval
    <folder>/mined/        every finding with its raw answers; errors.parquet names failed rows
    <folder>/pairs/        the pairs to train on, as rows of PreferencePair
    <folder>/mine_report.json

Each step is kept and found again, so a run that was killed goes on where it stopped.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sightline.config.benchmark import BenchmarkConfig
from sightline.config.dataset import WorldDataset
from sightline.config.extract import ExtractSettings
from sightline.config.mine import MineConfig
from sightline.config.mining import MineSettings
from sightline.config.model import ModelConfig
from sightline.config.resources import ResourcesConfig
from sightline.config.sweep_steering import SweepSteeringConfig
from sightline.data.examples import check_images
from sightline.distributed.progress import LOGGER
from sightline.distributed.shard_plan import hash_ids
from sightline.distributed.shards import ShardedRun, run_sharded
from sightline.distributed.sources import load_examples
from sightline.distributed.storage import Storage
from sightline.errors import DataError
from sightline.metrics.objects import words
from sightline.preference import filters, wrong_image
from sightline.preference.gallery import Task
from sightline.preference.miner import SHORT_RULES, Miner, MinerConfig, rules_for
from sightline.records import Example, PreferencePair
from sightline.retrieval.nearest import ImageEmbedder, Index, passages

REPORT = "mine_report.json"


@dataclass(frozen=True, slots=True)
class Mined:
    """Where the pairs are, and what the report says. `pairs` is their number."""

    folder: str
    pairs_folder: str
    pairs: int
    report: dict[str, Any]

    def counts(self) -> dict[str, int]:
        """The report's numbers worth following from run to run."""
        totals = {name: self.report[name] for name in ("examples", "asked", "failed_rows", "pairs")}
        return totals | {f"pairs.{name}": count for name, count in self.report["by_condition"].items()}


@dataclass(frozen=True, slots=True)
class Mining:
    """One mining run: which model answers, under which settings, on what, and where to."""

    model: ModelConfig
    settings: MineSettings
    resources: ResourcesConfig
    folder: str
    ray: bool = True
    """False runs everything in this process, in a plain loop."""

    def __call__(self, examples: Sequence[Example]) -> Mined:
        """Mine pairs from `examples`. Raises DataError before any work if there can be none."""
        missing = check_images(examples)
        if missing:
            LOGGER.warning("%d rows name images that do not exist; they will fail", len(missing))
        asked = [e for e in self._with_contexts(examples) if rules_for(e, self.settings)]
        if not asked:
            raise DataError(
                expected="examples that mining.conditions apply to",
                got=f"none of {len(examples)}",
                hint='"caption" needs caption questions; "oa1" and "oa2" need contexts',
            )
        run = self._ask(asked)
        if run.rows == 0:
            first = run.error_rows()[0]
            raise DataError(
                expected="at least one example that the model could answer",
                got=f"{run.errors} failures, the first being {first['row_id']}: {first['error']}",
            )
        selection = self._select(run)
        report = self._report(examples, asked, run, selection)
        Storage.at(self.folder).write_json(REPORT, report)
        pairs_folder = f"{self.folder}/pairs"
        return Mined(self.folder, pairs_folder, len(selection.pairs), report)

    # --- (1) contexts -----------------------------------------------------------------

    def _with_contexts(self, examples: Sequence[Example]) -> list[Example]:
        """Examples with the captions of the scenes most like theirs as context."""
        settings = self.settings
        lacking = [e for e in examples if not e.context]
        if not (settings.retrieved and lacking and set(settings.conditions) & set(SHORT_RULES)):
            return list(examples)
        corpus = passages(examples)
        if not corpus:
            raise DataError(
                expected="captions in the dataset, to retrieve as context",
                got="none",
                hint='add answered caption questions or meta["caption"], or set mining.retrieved=0',
            )
        vectors = self._embed(examples)
        corpus = [passage for passage in corpus if passage.image_id in vectors]
        index = Index(corpus, np.stack([vectors[passage.image_id] for passage in corpus]))
        image_ids = sorted({e.image_id for e in lacking} & set(vectors))
        queries_ND = np.stack([vectors[image_id] for image_id in image_ids])
        found = index.search(queries_ND, image_ids, settings.retrieved)
        contexts = {
            image_id: " ".join(passage.text for passage in nearest)
            for image_id, nearest in zip(image_ids, found, strict=True)
        }
        return [e if e.context else replace(e, context=contexts.get(e.image_id, "")) for e in examples]

    def _embed(self, examples: Sequence[Example]) -> dict[str, np.ndarray]:
        """Image id -> unit vector; an unreadable image has none (and fails later, where it is asked)."""
        uris = {example.image_id: example.image_uri for example in examples}
        rows = [{"row_id": image_id, "image_uri": uri} for image_id, uri in uris.items()]
        run = self._sharded(rows, ImageEmbedder, self.model, "embeddings", id_column="row_id")
        columns = ["row_id", "embedding"]
        vectors = {
            row["row_id"]: np.asarray(row["embedding"], dtype=np.float32)
            for table in run.tables(columns)
            for row in table.to_pylist()
        }
        if not vectors:
            raise DataError(expected="at least one readable image", got=run.error_rows()[0]["error"])
        return vectors

    # --- (2) answers ------------------------------------------------------------------

    def _ask(self, asked: Sequence[Example]) -> ShardedRun:
        settings = self.settings
        wrong: Mapping[str, Sequence[wrong_image.WrongImage]] = {}
        if "cm" in settings.conditions and settings.wrong_image != "noise":
            wrong = wrong_image.assign(asked, seed=settings.seed)
        rows = [Task(e, tuple(wrong.get(e.image_id, ()))).to_row() for e in asked]
        config = MinerConfig(self.model, settings, lexicon(settings))
        identity = settings.model_dump(mode="json", exclude={"batch_size", "shard_rows", "max_yes_share"})
        return self._sharded(
            rows,
            Miner,
            config,
            "mined",
            id_column="example_id",
            group_column="image_id",
            identity={"mining": identity, "lexicon": dict(config.lexicon)},
        )

    def _sharded(
        self,
        rows: list[dict[str, Any]],
        worker: type,
        config: Any,
        name: str,
        *,
        id_column: str,
        group_column: str | None = None,
        identity: Mapping[str, Any] | None = None,
    ) -> ShardedRun:
        from sightline.models.identity import identity_of_files
        from sightline.models.loading import resolve

        model = self.model
        weights = identity_of_files(resolve(model.source, model.revision)[0], model.adapter)
        numerics = model.model_dump(mode="json", include={"dtype", "attention"})
        return run_sharded(
            rows,
            worker,
            config,
            f"{self.folder}/{name}",
            shard_rows=self.settings.shard_rows,
            batch_size=self.settings.batch_size,
            workers=self.resources.workers,
            cpus_per_worker=self.resources.cpus_per_worker,
            gpus_per_worker=self.resources.gpus_per_worker,
            id_column=id_column,
            group_column=group_column,
            identity={"model": {"identity": weights, **numerics}, **(identity or {})},
            ray=self.ray,
            describe=name,
        )

    # --- (3) selection ----------------------------------------------------------------

    def _select(self, run: ShardedRun) -> filters.Selection:
        """Filter all found pairs together, and write those that stay, part by part."""
        columns = [f.name for f in fields(PreferencePair) if f.name != "provenance"]
        found = [
            PreferencePair.from_row(row)
            for table in run.tables([*columns, "outcome"])
            for row in table.filter(pc.equal(table["outcome"], "pair")).to_pylist()
        ]
        settings = self.settings
        selection = filters.select(
            found, max_length_ratio=settings.max_length_ratio, max_yes_share=settings.max_yes_share
        )
        kept = pa.array([pair.pair_id for pair in selection.pairs], pa.string())
        storage = Storage.at(f"{self.folder}/pairs")
        for part, table in zip(run.parts, run.tables(), strict=True):
            pairs = table.filter(pc.is_in(table["pair_id"], kept)).drop_columns(["outcome"])
            if len(pairs):
                storage.write_table(part, pairs)
            else:
                storage.delete(part)
        storage.write_json(
            "_SUCCESS.json", {"pairs": len(kept), "id_hash": hash_ids(pa.chunked_array([kept]))}
        )
        return selection

    # --- (4) report -------------------------------------------------------------------

    def _report(
        self,
        examples: Sequence[Example],
        asked: Sequence[Example],
        run: ShardedRun,
        selection: filters.Selection,
    ) -> dict[str, Any]:
        outcomes: dict[str, Counter[str]] = {}
        for table in run.tables(["condition", "outcome", "form"]):
            for row in table.to_pylist():
                key = f"{row['condition']}.{row['form']}" if row["outcome"] == "pair" else row["condition"]
                outcomes.setdefault(key, Counter())[row["outcome"]] += 1
        pairs = selection.pairs
        short = Counter(f"{p.chosen} > {p.rejected}" for p in pairs if p.condition != "caption")
        return {
            "examples": len(examples),
            "asked": len(asked),
            "images": len({e.image_id for e in asked}),
            "with_context": sum(bool(e.context) for e in asked),
            "failed_rows": run.errors,
            "shards": run.shards,
            "resumed_shards": run.resumed,
            "elapsed_s": round(run.elapsed_s, 1),
            "found": {name: dict(counts) for name, counts in sorted(outcomes.items())},
            "dropped": selection.dropped,
            "pairs": len(pairs),
            "by_condition": dict(Counter(pair.condition for pair in pairs)),
            "by_answers": dict(short.most_common(8)),
            "caption_words": {
                side: _mean([words(getattr(p, side)) for p in pairs if p.condition == "caption"])
                for side in ("chosen", "rejected")
            },
            "model": self.model.model_dump(mode="json"),
            "mining": self.settings.model_dump(mode="json"),
        }


def plan(config: MineConfig) -> str:
    """What `jobs/mine.py` would do, as text, without writing anything or loading the model."""
    from sightline.models.identity import identity_of_files
    from sightline.models.loading import resolve

    settings, model, asked = config.mining, config.model, config.resources
    folder, _ = resolve(model.source, model.revision)
    if isinstance(config.dataset, WorldDataset):
        data = f"{config.dataset.scenes} scenes of the embedded world, about 8 questions each"
    else:
        examples = load_examples(config.dataset, scratch=config.run.folder)
        missing = check_images(examples)
        images = len({e.image_id for e in examples})
        data = f"{len(examples)} examples of {images} images; {len(missing)} rows without their file"
    sections = {
        "model": f"{model.source}, identity {identity_of_files(folder, model.adapter)}",
        "data": data,
        "conditions": f"{', '.join(settings.conditions)}; wrong image: {settings.wrong_image}",
        "context": f"{settings.retrieved} retrieved captions an image",
        "captions": f"{settings.samples} samples at temperature {settings.caption_temperature:g}",
        "shards": f"of {settings.shard_rows} examples, {settings.batch_size} at a time",
        "workers": f"{asked.workers}, each {asked.cpus_per_worker:g} CPUs, {asked.gpus_per_worker:g} GPUs",
        "output": f"{config.run.folder}/pairs",
    }
    return "".join(f"{name:<12} {value}\n" for name, value in sections.items())


def lexicon(
    settings: MineSettings | ExtractSettings | BenchmarkConfig | SweepSteeringConfig,
) -> dict[str, str]:
    """Surface form -> node word: the file named in the settings, or the world's COCO nouns."""
    if settings.lexicon is None:
        from sightline.world.nouns import LEXICON

        return dict(LEXICON)
    path = Path(settings.lexicon)
    if not path.is_file():
        raise DataError(expected=f"a lexicon at {path}", got="no such file", hint="check the setting lexicon")
    return dict(json.loads(path.read_text(encoding="utf-8")))


def _mean(values: Sequence[int]) -> float | None:
    return round(sum(values) / len(values), 2) if values else None
