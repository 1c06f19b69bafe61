"""Predictions on Ray: the same answers as in a for-loop, whoever does the work."""

import pytest

from sightline.config.evaluation import EvaluationConfig
from sightline.config.model import ModelConfig
from sightline.config.resources import ResourcesConfig
from sightline.data.examples import read_jsonl
from sightline.distributed.evaluation import predict
from sightline.evaluation.compare import compare
from sightline.world import dataset
from sightline.world.nouns import LEXICON
from tests.unit.tiny import fresh_vlm

pytestmark = pytest.mark.integration


def test_two_workers_answer_like_one_loop(ray_session, tmp_path):
    fresh_vlm("smolvlm").save(tmp_path / "model")
    examples = read_jsonl(dataset.write(tmp_path / "world", split="test", scenes=4))
    model = ModelConfig(source=str(tmp_path / "model"), dtype="float32")
    settings = EvaluationConfig(max_new_tokens=4, short_answer_tokens=2, shard_rows=20, bootstrap=20)
    loop, cluster = (
        predict(
            examples,
            model=model,
            settings=settings,
            resources=ResourcesConfig(workers=workers),
            out_dir=str(tmp_path / f"predictions-{workers}"),
            ray=workers > 1,
        )
        for workers in (1, 2)
    )
    assert cluster == loop
    rows = compare(loop, cluster, lexicon=LEXICON, settings=settings)
    assert rows
    assert all(row["delta"] in (0, None) or row["n"] == 0 for row in rows)
