"""The shipped reference VLM is good but human: what the project promises of it, on held-out scenes.

Source of the bounds: the project's definition of its embedded default ("good but human").
"""

import pytest

from sightline.config.evaluation import EvaluationConfig
from sightline.config.model import ModelConfig
from sightline.data.examples import read_jsonl
from sightline.evaluation.predictions import Predict, PredictConfig
from sightline.evaluation.scoring import score
from sightline.models.reference import packaged_folder
from sightline.models.vlm import Vlm
from sightline.world import dataset
from sightline.world.nouns import LEXICON

pytestmark = pytest.mark.golden
SCENES = 400
"""About 2,200 questions of each POPE split and 400 captions."""


@pytest.fixture(scope="module")
def scores(tmp_path_factory) -> dict[str, float]:
    folder = tmp_path_factory.mktemp("test-scenes")
    path = dataset.write(folder, split="test", scenes=SCENES, with_references=True)
    predictions = Predict(PredictConfig(ModelConfig(), EvaluationConfig(batch_size=64))).predict(
        read_jsonl(path)
    )
    rows = score(predictions, lexicon=LEXICON, settings=EvaluationConfig(bootstrap=10))
    assert sum(row["n"] for row in rows if row["metric"] == "accuracy") > 2000
    return {f"{row['benchmark']}.{row['metric']}": row["value"] for row in rows}


def test_it_sees(scores):
    assert scores["pope_random.accuracy"] >= 0.93
    assert scores["color.accuracy"] >= 0.85


def test_it_errs_where_humans_do(scores):
    assert 0.75 <= scores["pope_adversarial.accuracy"] <= 0.92
    assert scores["pope_adversarial.false_yes_rate"] > 1.5 * scores["pope_random.false_yes_rate"]
    assert 0.15 <= scores["caption.chair_s"] <= 0.45


def test_it_reads_the_reference_and_is_misled_by_it(scores):
    unaided = scores["reference_none.accuracy"]
    assert scores["reference_true.accuracy"] > unaided
    assert scores["reference_misleading.accuracy"] <= unaided - 0.10


def test_its_answers_can_be_read(scores):
    assert scores["pope_random.unparsed_rate"] == 0


def test_it_is_small_and_takes_the_real_code_path():
    weights = packaged_folder() / "model.safetensors"
    assert weights.stat().st_size < 16 * 2**20
    vlm = Vlm.load()
    assert type(vlm.model).__name__ == "SmolVLMForConditionalGeneration"
    assert type(vlm.processor).__name__ == "SmolVLMProcessor"
