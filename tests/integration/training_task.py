"""What the training tests share: a small set of pairs, a configuration, one training run.

Also a program, so that a driver can be killed: `python -m tests.integration.training_task FOLDER
[key=value ...]` trains and prints the result.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from sightline.config.dpo import DpoConfig
from sightline.config.loader import parse
from sightline.data.pairs import read_pairs
from sightline.distributed.reference_cache import identity_parts, reference_logprobs
from sightline.distributed.tracking import tracked
from sightline.distributed.trainer import Trained, train
from sightline.models.reference import packaged_folder
from sightline.records import Example, PreferencePair
from sightline.world import dataset


def write_pairs(folder: Path, *, scenes: int = 8) -> Path:
    """Right answers preferred over wrong ones on yes/no questions about a few scenes.

    A copy of the reference VLM is put beside them, as `folder`/model.
    """
    shutil.copytree(packaged_folder(), folder / "model", dirs_exist_ok=True)
    rows = []
    for line in dataset.write(folder, split="mine", scenes=scenes).read_text().splitlines():
        example = Example.from_row(json.loads(line))
        if example.kind == "yes_no":
            wrong = "No." if example.answer.startswith("Yes") else "Yes."
            pair = PreferencePair(
                pair_id=example.example_id,
                example_id=example.example_id,
                image_id=example.image_id,
                image_uri=example.image_uri,
                question=example.question,
                context="",
                chosen=example.answer,
                rejected=wrong,
                condition="cm",
                sha256=example.sha256,
            )
            rows.append(pair.to_row())
    path = folder / "pairs.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def configuration(folder: Path, name: str, *settings: str) -> DpoConfig:
    """Twelve steps of eight pairs, in fp32, on the reference VLM."""
    return parse(
        DpoConfig,
        [
            f"run.name={name}",
            f"run.root={folder}/runs",
            f"run.tracking_uri=sqlite:///{folder}/mlflow.db",
            f"pairs={folder}/pairs.parquet",
            f"model.source={folder}/model",
            "training.global_batch=8",
            "training.micro_batch=2",
            "training.max_steps=12",
            "training.epochs=9",
            "training.lr=3e-4",
            "training.warmup_ratio=0",
            "training.precision=float32",
            *settings,
        ],
    )


def run(config: DpoConfig, *, reference_folder: str | None = None) -> Trained:
    """Reference, then training, inside the run's one MLflow run."""
    folder = config.run.folder
    identity = identity_parts(config)
    with tracked(
        config.run.tracking_uri, experiment="tests", run_key=folder, params={"name": config.run.name}
    ) as tracking:
        reference = reference_logprobs(
            config,
            read_pairs(config.pairs or ""),
            reference_folder or f"{folder}/reference",
            identity=identity,
        )
        return train(config, reference, f"{folder}/training", identity=identity, tracking=tracking)


if __name__ == "__main__":
    target = Path(sys.argv[1])
    done = run(configuration(target, "driver", *sys.argv[2:]))
    sys.stdout.write(json.dumps({"losses": [h["loss"] for h in done.history], "resumed": done.resumed_from}))
