"""`jobs/pretrain.py`: breed the reference VLM, log it to MLflow, save it, measure it."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from sightline.config.evaluation import EvaluationConfig
from sightline.config.model import ModelConfig
from sightline.config.pretrain import PretrainConfig
from sightline.data.examples import read_jsonl
from sightline.distributed.progress import LOGGER, speak
from sightline.distributed.tracking import TrackedRun, tracked
from sightline.evaluation.predictions import Predict, PredictConfig
from sightline.evaluation.run_folder import RunFolder, start_run, write_json
from sightline.evaluation.scoring import score
from sightline.models import reference
from sightline.training.pretrain import ReferenceTrainer, Settings
from sightline.world import dataset
from sightline.world.corpus import sentences
from sightline.world.nouns import LEXICON

PLAN = "%d reading, %d warm-up and %d full steps of %d scenes on %d threads into %s"


def run(config: PretrainConfig) -> None:
    """Train, keep the best weights in `<run folder>/model`, and report."""
    speak()
    if config.threads:
        torch.set_num_threads(config.threads)
    folder = RunFolder.at(config.run.folder)
    steps = (config.reading_steps, config.warmup_steps, config.steps)
    LOGGER.info("plan: " + PLAN, *steps, config.batch, torch.get_num_threads(), folder.path)
    if config.dry_run:
        return
    start_run(folder, name=config.run.name, config=config, seed=config.seed)
    params = config.model_dump(mode="json")
    with tracked(
        config.run.tracking_uri,
        experiment=config.run.experiment,
        run_key=str(folder.path),
        params=params,
    ) as mlflow_run:
        train(config, folder.path / "model", mlflow_run)
        scores = measure(folder, config.test_scenes)
        named = {f"test/{row['benchmark']}.{row['metric']}": row["value"] for row in scores}
        mlflow_run.log(named, step=config.reading_steps + config.warmup_steps + config.steps)


def train(config: PretrainConfig, out: Path, mlflow_run: TrackedRun) -> None:
    """Both stages; `out` becomes a plain Hugging Face folder in bf16."""
    tokenizer = reference.build_tokenizer(sentences())
    model = reference.build_model(tokenizer, seed=config.seed)
    model.set_attn_implementation("eager")  # in bf16 and with branch masks a third faster than sdpa
    reference.build_processor(tokenizer).save_pretrained(out)
    settings = Settings(**{field.name: getattr(config, field.name) for field in fields(Settings)})
    trainer = ReferenceTrainer(
        model,
        tokenizer,
        settings,
        report=_Reporter(settings, mlflow_run),
        keep=lambda: reference.save(model, out),
    )
    trainer.read()
    trainer.warm_up()
    trainer.train()
    LOGGER.info("saved the best weights (validation loss %.4f) to %s", trainer.best_loss, out)


def measure(folder: RunFolder, scenes: int) -> list[dict[str, Any]]:
    """Benchmarks of `model` on unseen scenes, as rows of `scores.json` {benchmark, metric, value, ...}."""
    path = dataset.write(folder.path / "test", split="test", scenes=scenes, with_references=True)
    model = ModelConfig(source=str(folder.path / "model"))
    predictions = Predict(PredictConfig(model, EvaluationConfig())).predict(read_jsonl(path))
    scores = score(predictions, lexicon=LEXICON)
    write_json(folder, "scores.json", scores)
    for row in scores:
        interval = f"{row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"
        LOGGER.info("%s %s: %s, n = %d", row["benchmark"], row["metric"], interval, row["n"])
    return scores


class _Reporter:
    """Numbers to MLflow and to lines a person reads."""

    def __init__(self, settings: Settings, mlflow_run: TrackedRun):
        self._mlflow, self._settings = mlflow_run, settings

    def __call__(self, stage: str, step: int, numbers: dict[str, float]) -> None:
        settings = self._settings
        match stage:
            case "reading":
                kind, total, offset = "reading", settings.reading_steps, 0
            case "warm-up":
                kind, total, offset = "warmup", settings.warmup_steps, settings.reading_steps
            case _:
                kind = "validation" if stage == "validation" else "train"
                total, offset = settings.steps, settings.reading_steps + settings.warmup_steps
        self._mlflow.log({f"{kind}/{name}": value for name, value in numbers.items()}, step=offset + step)
        readable = ", ".join(f"{name} {value:.4g}" for name, value in numbers.items())
        LOGGER.info("%s: step %d of %d, %s", stage, step, total, readable)
