"""Models, rows and benchmarks on Ray: answer everything once, then score as often as one likes.

    <run>/data/                           the world's scenes, where a benchmark is the world
    <run>/answers/<model>/<row>/<benchmark>/       shards, found again by a run that was killed
    <run>/predictions/<model>/<row>/<benchmark>.jsonl, .json   the answers with their conditions
    <run>/judgements.jsonl                         what a judge said, where one is named
    <run>/report.json, report.html, report.md, methods.png

Scoring reads the predictions and the benchmarks, and nothing else; `--score-only` does it again
without any model, to the last digit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from sightline.config.benchmark import BenchmarkConfig, MethodConfig
from sightline.config.dataset import DatasetConfig, WorldDataset
from sightline.config.evaluation import EvaluationConfig
from sightline.config.functions import load_function
from sightline.config.mitigations import to_text
from sightline.config.model import ModelConfig
from sightline.data.examples import check_images
from sightline.data.judgements import Judgements
from sightline.distributed.mining import lexicon
from sightline.distributed.progress import LOGGER
from sightline.distributed.shards import ShardedRun, run_sharded
from sightline.distributed.sources import load_examples
from sightline.distributed.tracking import TrackedRun
from sightline.errors import ConfigError, SightlineError, StorageError
from sightline.evaluation.answers import Answered, match_answers, write_answers
from sightline.evaluation.asking import Ask, AskConfig
from sightline.evaluation.benchmark_report import assemble, write_report
from sightline.evaluation.fairness import Conditions, hash_items, hash_prompt
from sightline.evaluation.judged import Judged
from sightline.evaluation.matrix import Side, check_scorable
from sightline.evaluation.published import Published
from sightline.evaluation.run_folder import RunFolder
from sightline.metrics.objects import Lexicon
from sightline.mitigations import recorded
from sightline.records import Example

_SOFTWARE = ("sightline", "torch", "transformers")


@dataclass(frozen=True, slots=True)
class Cell:
    """One model with one row on one dataset: what is answered, and scored, as a whole."""

    model: str
    method: MethodConfig
    dataset: str

    @property
    def path(self) -> str:
        """Where its files lie, under `answers` and `predictions`."""
        return f"{self.model}/{self.method.name}/{self.dataset}"


@dataclass(frozen=True)
class Benchmark:
    """One run in its folder: `answer`, then `finish`; or `finish` alone, where answers are."""

    config: BenchmarkConfig
    folder: RunFolder
    manifest: Mapping[str, Any]
    ray: bool = True
    """False runs everything in this process, in a plain loop."""

    @cached_property
    def datasets(self) -> dict[str, list[Example]]:
        """The examples by dataset, checked. Raises DataError for what cannot be scored."""
        found = {}
        for name, dataset in self.config.benchmarks.items():
            examples = _by_kind(load_examples(dataset, scratch=self.folder.path / "data", split="test"))
            check_scorable(examples, self.lexicon, self.published)
            if missing := check_images(examples):
                LOGGER.warning(
                    "%s: %d rows name images that do not exist; they will fail", name, len(missing)
                )
            found[name] = examples
        return found

    @cached_property
    def lexicon(self) -> Lexicon:
        """What captions are judged by."""
        return Lexicon(lexicon(self.config))

    @cached_property
    def published(self) -> Published:
        """The scorers of published benchmarks."""
        return Published.of(self.config)

    @cached_property
    def judge(self) -> Judged | None:
        """Who the settings name as a judge, with what it said before. Raises ConfigError, DataError."""
        name = self.config.judge
        if name is None:
            return None
        return Judged(name, load_function(name), Judgements(self.folder.path / "judgements.jsonl"))

    def cells(self) -> Iterator[Cell]:
        """Model by model, row by row, greedy first; pending rows have none."""
        for model in self.config.named_models():
            for method in self.config.methods():
                for dataset in () if method.pending else self.config.benchmarks:
                    yield Cell(model, method, dataset)

    def answer(self) -> None:
        """Answer what is not answered yet. Raises ConfigError, before any answer, for rows that a
        model refuses."""
        datasets, _ = self.datasets, self.judge  # a judge that is not there is missed now, not at the end
        self._check_rows()
        for cell in self.cells():
            conditions = self.conditions(cell)
            run = self._ask(cell, conditions, datasets[cell.dataset])
            answers = list(_answers(run, datasets[cell.dataset]))
            write_answers(self.folder, f"predictions/{cell.path}", conditions, answers)

    def finish(self, tracking: TrackedRun | None = None) -> dict[str, Any]:
        """Score every answer that is there, and write the report."""
        sides = [side for cell in self.cells() if (side := self._side(cell)) is not None]
        if not sides:
            raise StorageError(
                expected=f"answers in {self.folder.path}/predictions",
                got="none",
                hint="run the job without --score-only first, with the same settings",
            )
        published = self.published if self.judge is None else self.published.judged(self.judge)
        report = assemble(self.config, self.manifest, sides, self.datasets, self.lexicon, published)
        write_report(self.folder, report)
        if tracking is not None:
            _track(report, tracking)
            for name in ("report.json", "report.html"):
                tracking.attach(self.folder.path / name)
        for refused in report["refused"]:
            LOGGER.warning("%s: not compared; %s", refused["row"], "; ".join(refused["reasons"]))
        for name in self._unlisted():
            LOGGER.warning("%s: answered, but no row of the settings; left out", name)
        LOGGER.info("%s", report["headline"])
        LOGGER.info("report: %s", self.folder.path / "report.html")
        return report

    def _unlisted(self) -> list[str]:
        """Answers in the folder that no row of the settings asks for."""
        root = self.folder.path / "predictions"
        found = {str(path.relative_to(root).with_suffix("")) for path in root.rglob("*.jsonl")}
        return sorted(found - {cell.path for cell in self.cells()})

    def conditions(self, cell: Cell) -> Conditions:
        """Under which the cell is answered."""
        config, versions = self.config, self.manifest["versions"]
        return Conditions(
            row=cell.method.name,
            mitigations=method_text(cell.method),
            dataset=cell.dataset,
            items=hash_items(self.datasets[cell.dataset]),
            asked=len(self.datasets[cell.dataset]),
            model=_identity(config.named_models()[cell.model]),
            max_new_tokens=config.max_new_tokens,
            short_answer_tokens=config.short_answer_tokens,
            batch_size=config.batch_size,
            seed=config.seed,
            software=tuple(f"{name} {versions[name]}" for name in _SOFTWARE),
        )

    def _ask(self, cell: Cell, conditions: Conditions, examples: Sequence[Example]) -> ShardedRun:
        config, resources = self.config, self.config.resources
        settings = EvaluationConfig(
            max_new_tokens=config.max_new_tokens,
            short_answer_tokens=config.short_answer_tokens,
            batch_size=config.batch_size,
        )
        model = config.named_models()[cell.model]
        asked = AskConfig(model, cell.method.mitigations, settings, {e.example_id: e for e in examples})
        rows = [
            {"example_id": e.example_id, "image_uri": e.image_uri, "prompt": hash_prompt(e)} for e in examples
        ]
        return run_sharded(
            rows,
            Ask,
            asked,
            str(self.folder.path / "answers" / cell.path),
            shard_rows=config.shard_rows,
            batch_size=config.shard_rows,  # the worker makes its own batches
            workers=resources.workers,
            cpus_per_worker=resources.cpus_per_worker,
            gpus_per_worker=resources.gpus_per_worker,
            id_column="example_id",
            group_column="image_uri",
            identity=conditions.to_json() | {"recorded": recorded(cell.method.mitigations)},
            ray=self.ray,
            describe=cell.path,
        )

    def _check_rows(self) -> None:
        """Build every row that is not answered yet on its model, before anything is answered."""
        for name, model in self.config.named_models().items():
            waiting = [
                cell.method
                for cell in self.cells()
                if cell.model == name and not self.folder.exists(f"predictions/{cell.path}.jsonl")
            ]
            waiting = list({method.name: method for method in waiting if method.mitigations}.values())
            if waiting and (refusals := self._refusals(model, waiting)):
                raise ConfigError(
                    expected=f"rows that {model.source} can be asked with",
                    got="; ".join(refusals),
                    hint="change them, or give them a reason as `pending`",
                )

    def _refusals(self, model: ModelConfig, methods: Sequence[MethodConfig]) -> list[str]:
        if not self.ray:
            return refusals(model, methods)
        import ray

        asked = self.config.resources
        remote = ray.remote(num_cpus=asked.cpus_per_worker, num_gpus=asked.gpus_per_worker)(refusals)
        return ray.get(remote.remote(model, methods))

    def _side(self, cell: Cell) -> Side | None:
        """The cell's answers, read back; None where there are none."""
        name = f"predictions/{cell.path}"
        if not (self.folder.exists(f"{name}.jsonl") and self.folder.exists(f"{name}.json")):
            LOGGER.warning("%s: no answers", cell.path)
            return None
        conditions = Conditions.from_json(self.folder.read_json(f"{name}.json"))
        path = self.folder.path / f"{name}.jsonl"
        matched = match_answers(
            path.read_text(encoding="utf-8"), conditions, self.datasets[cell.dataset], where=str(path)
        )
        return Side(cell.model, cell.method.name, cell.dataset, matched)


def method_text(method: MethodConfig) -> str:
    """The row's mitigations as text, `greedy` when there are none."""
    return " + ".join(to_text(item) for item in method.mitigations) or "greedy"


def refusals(model: ModelConfig, methods: Sequence[MethodConfig]) -> list[str]:
    """One sentence for each row that the model cannot be asked with."""
    from sightline.mitigations import Mitigated
    from sightline.models.vlm import Vlm

    vlm = Vlm.of(model)
    found = []
    for method in methods:
        try:
            Mitigated(vlm, method.mitigations)
        except SightlineError as error:
            found.append(f"{method.name}: {error}")
    return found


def plan(config: BenchmarkConfig) -> str:
    """What `jobs/benchmark.py` would do, as text, without writing anything or loading a model."""
    asked = config.resources
    lines = [("folder", config.run.folder)]
    for name, model in config.named_models().items():
        lines.append(("model", f"{name}: {model.source} ({_identity(model)[:12]}), {model.attention}"))
    for method in config.methods():
        what = f"pending: {method.pending}" if method.pending else method_text(method)
        lines.append(("row", f"{method.name}: {what}"))
    for name, dataset in config.benchmarks.items():
        lines.append(("benchmark", f"{name}: {_amount(dataset)}"))
    if config.judge is not None:
        load_function(config.judge)
        lines.append(("judge", config.judge))
    lines.append(
        ("workers", f"{asked.workers}, each {asked.cpus_per_worker:g} CPUs, {asked.gpus_per_worker:g} GPUs")
    )
    return "".join(f"{name:<12} {value}\n" for name, value in lines)


def _amount(dataset: DatasetConfig) -> str:
    """How much a dataset asks; the world is not rendered to find out."""
    if isinstance(dataset, WorldDataset):
        return f"{dataset.scenes} test scenes of the embedded world, seed {dataset.seed}"
    examples = load_examples(dataset, scratch="")
    missing = check_images(examples)
    images = len({e.image_uri for e in examples})
    return f"{len(examples)} questions about {images} images; {len(missing)} without their file"


def _by_kind(examples: Sequence[Example]) -> list[Example]:
    """A split that mixes kinds of question becomes one split a kind: `kvqa_yes_no`, `kvqa_open`."""
    kinds: dict[str, set[str]] = {}
    for e in examples:
        kinds.setdefault(e.split, set()).add(e.kind)
    return [
        replace(e, split=f"{e.split}_{e.kind}") if e.split and len(kinds[e.split]) > 1 else e
        for e in examples
    ]


def _identity(model: ModelConfig) -> str:
    from sightline.models.identity import identity_of_files
    from sightline.models.loading import resolve

    return identity_of_files(resolve(model.source, model.revision)[0], model.adapter)


def _answers(run: ShardedRun, examples: Sequence[Example]) -> Iterator[Answered]:
    """One answer an example, in their order; those that failed say why."""
    good = {row["example_id"]: row for row in run.table().to_pylist()}
    bad = {row["row_id"]: row["error"] for row in run.error_rows()}
    for example in examples:
        row = good.get(example.example_id)
        if row is None:
            yield Answered(example.example_id, hash_prompt(example), "", error=bad[example.example_id])
        else:
            yield Answered(**row)


def _track(report: Mapping[str, Any], tracking: TrackedRun) -> None:
    """Each row's scores as series of the run."""
    values = {
        f"{row['model']}/{row['row']}/{row['dataset']}.{row['benchmark']}.{row['metric']}": row["value"]
        for row in report["scores"]
        if row["value"] is not None
    }
    # MLflow takes no plus sign in a name, and a stack may be called a+b.
    tracking.log({name.replace("+", "_"): value for name, value in values.items()}, step=0)
