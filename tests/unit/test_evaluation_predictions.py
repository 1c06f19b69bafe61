"""The prediction Worker on a tiny real model, alone and through shards in a for-loop."""

from dataclasses import replace

import numpy as np
import pytest

from sightline.config.evaluation import EvaluationConfig
from sightline.config.model import ModelConfig
from sightline.config.resources import ResourcesConfig
from sightline.distributed.evaluation import predict
from sightline.errors import DataError, StorageError
from sightline.evaluation.predictions import Predict, PredictConfig, Prediction
from sightline.models.prompts import Prompt
from sightline.records import Example
from tests.unit.tiny import fresh_vlm, random_image, tiny_vlm

SETTINGS = EvaluationConfig(max_new_tokens=6, short_answer_tokens=3, batch_size=4, shard_rows=4)
CONFIG = PredictConfig(ModelConfig(), SETTINGS)


@pytest.fixture
def examples(tmp_path):
    """Two good images, a corrupt one and a missing one, with two questions and a caption each."""
    for i in range(2):
        random_image(i).save(tmp_path / f"{i}.png")
    (tmp_path / "2.png").write_bytes(b"\x89PNG but not really")
    return [
        Example(
            example_id=f"{i}/{name}",
            image_id=str(i),
            image_uri=str(tmp_path / f"{i}.png"),
            question=question,
            kind=kind,
            answer=answer,
            objects=("dog",),
            split=name,
            meta={"n": i},
        )
        for name, question, kind, answer in (
            ("pope", "Is there a dog?", "yes_no", "No."),
            ("color", "What color is the bus?", "color", "Red."),
            ("caption", "Describe this image in detail.", "caption", ""),
        )
        for i in range(4)
    ]


def columns(examples):
    rows = [e.to_row() for e in examples]
    return {name: np.asarray([row[name] for row in rows], dtype=object) for name in rows[0]}


def test_worker_answers_every_row_in_order_and_names_bad_images(examples):
    worker = Predict(CONFIG, vlm=tiny_vlm("smolvlm"))
    batch = worker(columns(examples))
    rows = [{name: values[i] for name, values in batch.items()} for i in range(len(examples))]
    predictions = [Prediction.from_row(row) for row in rows]
    assert [p.example for p in predictions] == examples
    assert {p.example.image_id for p in predictions if p.error} == {"2", "3"}
    assert all("2.png" in p.error or "3.png" in p.error for p in predictions if p.error)
    assert predictions == worker.predict(examples)
    assert list(batch["truth"]) == [e.answer for e in examples]


def test_answers_are_the_models_own(examples):
    vlm = tiny_vlm("smolvlm")
    good = [e for e in examples if e.image_id in "01"]
    for prediction in Predict(CONFIG, vlm=vlm).predict(good):
        image = random_image(int(prediction.example.image_id))
        longest = 6 if prediction.example.kind == "caption" else 3
        (expected,) = vlm.generate([Prompt(image, prediction.example.question)], max_new_tokens=longest)
        assert prediction.answer == expected[0].text
        assert prediction.finished == expected[0].finished


def test_the_same_question_about_an_image_is_asked_once(examples, monkeypatch):
    vlm = tiny_vlm("smolvlm")
    twice = [examples[0], replace(examples[0], example_id="again", split="pope_popular")]
    prompts = []
    generate = vlm.generate
    monkeypatch.setattr(vlm, "generate", lambda p, **kw: prompts.extend(p) or generate(p, **kw))
    first, second = Predict(CONFIG, vlm=vlm).predict(twice)
    assert len(prompts) == 1
    assert first.answer == second.answer
    assert second.benchmark == "pope_popular"


def test_shards_and_loop_give_the_same_and_a_second_run_asks_nothing(examples, tmp_path, monkeypatch):
    vlm = fresh_vlm("smolvlm")
    vlm.save(tmp_path / "model")
    asked = {
        "model": ModelConfig(source=str(tmp_path / "model"), dtype="float32"),
        "settings": SETTINGS,
        "resources": ResourcesConfig(),
        "out_dir": str(tmp_path / "predictions"),
        "ray": False,
    }
    found = predict(examples, **asked)
    expected = Predict(CONFIG, vlm=vlm).predict(examples)
    assert [p.example.example_id for p in found] == [e.example_id for e in examples]
    assert [(p.answer, p.finished, bool(p.error)) for p in found] == [
        (p.answer, p.finished, bool(p.error)) for p in expected
    ]
    with monkeypatch.context() as patched:
        patched.setattr(Predict, "__init__", lambda *_: pytest.fail("asked again"))
        assert predict(examples, **asked) == found
    with pytest.raises(StorageError, match="trained"):
        predict(examples, **asked, identity={"weights": "trained"})


def test_nothing_to_ask_is_refused(tmp_path):
    with pytest.raises(DataError, match="at least one"):
        predict(
            [],
            model=ModelConfig(),
            settings=SETTINGS,
            resources=ResourcesConfig(),
            out_dir=str(tmp_path),
            ray=False,
        )
