"""Ask a model all questions of a benchmark on Ray, in shards that survive any kill."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sightline.config.evaluation import EvaluationConfig
from sightline.config.mitigations import Mitigation
from sightline.config.model import ModelConfig
from sightline.config.resources import ResourcesConfig
from sightline.distributed.shards import run_sharded
from sightline.errors import DataError
from sightline.evaluation.predictions import Predict, PredictConfig, Prediction
from sightline.mitigations import recorded
from sightline.records import Example


def predict(
    examples: Sequence[Example],
    *,
    model: ModelConfig,
    settings: EvaluationConfig,
    resources: ResourcesConfig,
    out_dir: str,
    mitigations: Sequence[Mitigation] = (),
    identity: Mapping[str, Any] | None = None,
    ray: bool = True,
    describe: str = "",
) -> list[Prediction]:
    """A prediction for every example, in their order; those that failed carry `error`.

    `out_dir` keeps the answers: run again, finished shards are read, not asked. Pass the
    model's `Vlm.identity` in `identity` when weights may change under the same name
    (a trained adapter): a folder with another model's answers is then refused, as is one of
    other `mitigations` (their directions' contents included).
    """
    if not examples:
        raise DataError(expected="at least one example to evaluate", got="none")
    run = run_sharded(
        [example.to_row() for example in examples],
        Predict,
        PredictConfig(model, settings, tuple(mitigations)),
        out_dir,
        shard_rows=settings.shard_rows,
        batch_size=settings.batch_size,
        workers=resources.workers,
        cpus_per_worker=resources.cpus_per_worker,
        gpus_per_worker=resources.gpus_per_worker,
        id_column="example_id",
        group_column="image_uri",
        identity={
            "model": model.model_dump(mode="json", exclude={"device"}),
            "max_new_tokens": settings.max_new_tokens,
            "short_answer_tokens": settings.short_answer_tokens,
            # Absent where there are none, so that folders from before mitigations go on.
            **({"mitigations": recorded(mitigations)} if mitigations else {}),
            **(identity or {}),
        },
        ray=ray,
        describe=describe,
    )
    answered = {row["example_id"]: Prediction.from_row(row) for row in run.table().to_pylist()}
    failed = {row["row_id"]: row["error"] for row in run.error_rows()}
    return [answered.get(e.example_id) or Prediction(e, "", error=failed[e.example_id]) for e in examples]
