"""lmms-eval's own evaluator on a task of our own, answered by a Sightline model with mitigations.

Its requirements (wandb, yt-dlp, sentence-transformers, av<16, ...) are not ours, so it lives in an
environment of its own: `make test-lmms` makes one beside ours and runs this file in it.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import sightline  # noqa: F401  (first: on a CPU it mends torchvision, which lmms_eval imports)

pytest.importorskip("lmms_eval", reason="lmms-eval is not installed here; `make test-lmms` runs this")

from sightline.config.evaluation import EvaluationConfig
from sightline.config.model import ModelConfig
from sightline.data.examples import read_jsonl
from sightline.errors import ConfigError
from sightline.evaluation.lmms_plugin import MANIFEST, Sightline, cut, read_mitigations
from sightline.evaluation.predictions import Predict, PredictConfig
from sightline.evaluation.scoring import tally
from sightline.models.vlm import Vlm
from sightline.records import Answer
from sightline.world import dataset
from sightline.world.nouns import LEXICON

pytestmark = pytest.mark.integration

_TASK = """
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}}}
task: sightline_world
test_split: test
output_type: generate_until
doc_to_visual: !function reading.images
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
generation_kwargs: {{max_new_tokens: 8}}
process_results: !function reading.right
metric_list:
  - {{metric: right, aggregation: mean, higher_is_better: true}}
"""
_READING = """
from PIL import Image


def images(doc):
    return [Image.open(doc["image_uri"]).convert("RGB")]


def right(doc, results):
    return {"right": float(results[0].lower().strip() == doc["answer"].lower().strip())}
"""


@pytest.fixture(scope="module")
def task(tmp_path_factory) -> Path:
    """The world's adversarial existence questions as a task of lmms-eval."""
    folder = tmp_path_factory.mktemp("task")
    examples = read_jsonl(dataset.write(folder / "world", split="test", scenes=4))
    asked = [e for e in examples if e.split == "pope_adversarial"]
    columns = ("example_id", "image_uri", "question", "answer")
    rows = [json.dumps({name: getattr(e, name) for name in columns}) for e in asked]
    (folder / "rows.json").write_text("\n".join(rows))
    (folder / "rows.jsonl").write_text("".join(json.dumps(e.to_row()) + "\n" for e in asked))
    (folder / "task").mkdir()
    (folder / "task" / "sightline_world.yaml").write_text(_TASK.format(rows=folder / "rows.json"))
    (folder / "task" / "reading.py").write_text(_READING)
    return folder


def evaluate(task: Path, arguments: str) -> tuple[float, list[str]]:
    """The score and the answers that lmms-eval gets."""
    from lmms_eval.evaluator import simple_evaluate
    from lmms_eval.models import MODEL_REGISTRY_V2
    from lmms_eval.tasks import TaskManager

    if "sightline" not in MODEL_REGISTRY_V2.list_model_names():  # not installed: no entry point
        MODEL_REGISTRY_V2.register_manifest(MANIFEST)
    found = simple_evaluate(
        model="sightline",
        model_args=arguments,
        tasks=["sightline_world"],
        task_manager=TaskManager(include_path=str(task / "task")),
        batch_size=4,
        log_samples=True,
    )
    answers = [sample["filtered_resps"][0] for sample in found["samples"]["sightline_world"]]
    return found["results"]["sightline_world"]["right,none"], answers


@pytest.mark.parametrize("mitigate", ["", "spin:k=0.5|alpha=0.0"])
def test_lmms_eval_gets_sightlines_own_answers(task, mitigate):
    score, answers = evaluate(
        task, f"source=world,dtype=float32,mitigate={mitigate}".removesuffix(",mitigate=")
    )
    examples = read_jsonl(task / "rows.jsonl")
    settings = EvaluationConfig(short_answer_tokens=8)
    from sightline.config.mitigations import mitigations_of

    config = PredictConfig(ModelConfig(), settings, mitigations_of(read_mitigations(mitigate)))
    ours = Predict(config, vlm=Vlm.load(dtype="float32")).predict(examples)
    assert answers == [p.answer for p in ours]
    right = [p.answer.lower().strip() == p.example.answer.lower().strip() for p in ours]
    assert score == pytest.approx(sum(right) / len(right))


def test_the_parser_lmms_eval_wants_the_bare_word(task):
    """Its POPE takes `Yes.` for wrong: our parser of that name says so too."""
    examples = read_jsonl(task / "rows.jsonl")
    ours = Predict(PredictConfig(ModelConfig(), EvaluationConfig())).predict(examples)
    [counts] = tally(ours, lexicon=LEXICON, parser="lmms-eval").values()
    assert counts.ratios["unparsed_rate"].value == 1.0


def test_arguments():
    assert read_mitigations("spin:k=0.8|alpha=0.1; vti") == ["spin:k=0.8,alpha=0.1", "vti"]
    assert read_mitigations("") == []
    assert cut(Answer("A dog.\n\nQ: and"), ["\n\n", "###"]) == "A dog."
    with pytest.raises(ConfigError, match="pretrained"):
        Sightline(pretrained="x")
