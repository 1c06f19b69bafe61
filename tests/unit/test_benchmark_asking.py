"""Asking with a tiny real model: the answers are its own, and each cost is counted once, where it fell."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from sightline.config.benchmark import BenchmarkConfig
from sightline.config.evaluation import EvaluationConfig
from sightline.config.mitigations import mitigations_of
from sightline.config.model import ModelConfig
from sightline.distributed import benchmark as job
from sightline.errors import ConfigError
from sightline.evaluation.asking import Ask, AskConfig
from sightline.evaluation.cost import Meter
from sightline.evaluation.run_folder import RunFolder, start_run
from sightline.mitigations import Mitigated
from sightline.models.prompts import Prompt
from sightline.records import Example
from tests.unit.tiny import FAMILIES, fresh_vlm, random_image, tiny_vlm

SETTINGS = EvaluationConfig(max_new_tokens=6, short_answer_tokens=3, batch_size=4)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_meter_changes_no_answer_and_counts_every_pass(family):
    vlm = tiny_vlm(family)
    prompts = [Prompt(random_image(i), "Is there a dog?") for i in range(3)]
    plain = Mitigated(vlm)
    expected = plain.generate(prompts, max_new_tokens=5, batch_size=1)
    meter = Meter(vlm, plain)
    assert meter.generate(prompts, max_new_tokens=5, batch_size=1) == expected
    [spent] = meter.take()
    assert meter.take() == []
    assert spent.tokens == sum(len(a.token_ids) for a in expected)
    # One row at a time: its prompt gives the first token, every further token is one more pass.
    assert spent.passes == spent.tokens
    assert spent.seconds > 0
    assert math.isnan(spent.peak_mib) or spent.peak_mib >= 0
    decoder = vlm.adapter.decoder(vlm.model)
    assert not decoder._forward_pre_hooks, "nothing stays behind"


@pytest.fixture
def examples(tmp_path) -> dict[str, Example]:
    """Two good images and a corrupt one; one question stands in two splits."""
    for i in range(2):
        random_image(i).save(tmp_path / f"{i}.png")
    (tmp_path / "2.png").write_bytes(b"\x89PNG but not really")
    asked = (
        ("easy", "Is there a dog?", "yes_no"),
        ("hard", "Is there a dog?", "yes_no"),
        ("long", "Say.", "caption"),
    )
    found = [
        Example(
            f"{split}-{i}", str(i), str(tmp_path / f"{i}.png"), question, kind, "No.", ("dog",), split=split
        )
        for i in range(3)
        for split, question, kind in asked
    ]
    return {e.example_id: e for e in found}


def test_answers_come_in_order_and_an_equal_prompt_costs_once(examples):
    config = AskConfig(ModelConfig(), (), SETTINGS, examples)
    ask = Ask(config, vlm=tiny_vlm("smolvlm"))
    columns = ask({"example_id": np.asarray(list(examples), dtype=object)})
    rows = [{name: values[i] for name, values in columns.items()} for i in range(len(examples))]
    assert [row["example_id"] for row in rows] == list(examples)
    assert [bool(row["error"]) for row in rows] == [False] * 6 + [True] * 3
    easy, hard, long = rows[:3]
    assert easy["answer"] == hard["answer"]
    assert 0 < easy["tokens"] <= 3 < 6
    assert (hard["tokens"], hard["seconds"], hard["passes"]) == (0, 0.0, 0.0)
    assert long["tokens"] <= 6
    assert easy["passes"] > 0
    assert {row["numerics"] for row in rows[:6]} == {"cpu float32 sdpa"}


def test_mitigations_reach_the_model(examples):
    vlm = tiny_vlm("smolvlm")
    good = [e for e in examples.values() if e.image_id != "2"]
    said = []
    for texts in ([], ["sample:temperature=50.0"]):
        config = AskConfig(ModelConfig(), mitigations_of(texts), SETTINGS, examples)
        said.append([a.answer for a in Ask(config, vlm=vlm).answer(good)])
    assert said[0] != said[1]


def test_the_whole_job_in_one_process(tmp_path):
    fresh_vlm("smolvlm").save(tmp_path / "model")
    config = BenchmarkConfig.model_validate(
        {
            "run": {"root": str(tmp_path / "runs"), "name": "small"},
            "model": {"source": str(tmp_path / "model")},
            "rows": [
                {"name": "warm", "mitigations": ["sample:temperature=5.0"]},
                {"name": "guard", "pending": "later"},
            ],
            "benchmarks": {"world": {"scenes": 2}},
            "max_new_tokens": 4,
            "short_answer_tokens": 2,
            "bootstrap": 20,
            "shown": 2,
        }
    )
    folder = RunFolder.at(config.run.folder)
    manifest = start_run(folder, name="small", config=config, seed=0)
    run = job.Benchmark(config, folder, manifest, ray=False)
    run.answer()
    run.finish()
    first = (folder.path / "report.json").read_bytes()
    (folder.path / "report.json").unlink()
    manifest = folder.read_json("run.json")
    job.Benchmark(config.model_copy(update={"score_only": True}), folder, manifest, ray=False).finish()
    assert (folder.path / "report.json").read_bytes() == first, "scored again, to the last digit"
    assert {p.name for p in folder.path.iterdir()} >= {
        "report.html",
        "report.md",
        "methods.png",
        "predictions",
    }
    assert "2 test scenes" in job.plan(config)
    assert "pending: later" in job.plan(config)


ASKED: list[str] = []


def judge(prompt: str) -> str:
    """Rates the first question, and talks nonsense about the second."""
    ASKED.append(prompt)
    return "Rating: 5" if "Question: first?" in prompt else "I cannot see the image."


def test_a_judge_is_asked_once_and_not_again_by_scoring(tmp_path):
    fresh_vlm("smolvlm").save(tmp_path / "model")
    random_image(0).save(tmp_path / "0.png")
    shown = {"image_id": "0", "image_uri": "0.png", "kind": "open", "answer": "Red", "source": "mmhal"}
    rows = [
        shown
        | {"example_id": f"mmhal/{i}", "question": text, "split": "mmhal", "meta": {"contents": ["Ball"]}}
        for i, text in enumerate(("first?", "second?"))
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = BenchmarkConfig.model_validate(
        {
            "run": {"root": str(tmp_path / "runs"), "name": "rated"},
            "model": {"source": str(tmp_path / "model")},
            "rows": [{"name": "warm", "mitigations": ["sample:temperature=5.0"]}],
            "benchmarks": {"mmhal": {"type": "jsonl", "path": str(tmp_path / "rows.jsonl")}},
            "judge": f"{__name__}:judge",
            "max_new_tokens": 3,
            "short_answer_tokens": 3,
            "bootstrap": 20,
        }
    )
    folder = RunFolder.at(config.run.folder)
    manifest = start_run(folder, name="rated", config=config, seed=0)
    absent = config.model_copy(update={"judge": f"{__name__}:nobody"})
    with pytest.raises(ConfigError, match="nobody"):
        job.Benchmark(absent, folder, manifest, ray=False).answer()
    with pytest.raises(ConfigError, match="nobody"):
        job.plan(absent)
    assert not (folder.path / "answers").exists(), "missed before any answer"
    run = job.Benchmark(config, folder, manifest, ray=False)
    run.answer()
    ASKED.clear()
    report = run.finish()
    asked = len(ASKED)
    assert 2 <= asked == len(set(ASKED))
    found = {row["metric"]: row["value"] for row in report["scores"]}
    assert (found["rating"], found["hallucination_rate"], found["unread_replies"]) == (2.5, 0.5, 0.5)
    assert {c["metric"] for c in report["comparisons"]} == found.keys()
    assert "| Mmhal: rating of 6 | Mmhal: hallucinated |" in (folder.path / "report.md").read_text()
    assert "(mmhal/1)" in report["measure"]["scorers"][0]
    first = (folder.path / "report.json").read_bytes()
    job.Benchmark(config, folder, folder.read_json("run.json"), ray=False).finish()
    assert len(ASKED) == asked, "what was said is kept in the run's folder"
    assert (folder.path / "report.json").read_bytes() == first
    unjudged = config.model_copy(update={"judge": None})
    plain = job.Benchmark(unjudged, folder, folder.read_json("run.json"), ray=False).finish()
    assert {row["metric"] for row in plain["scores"]} == {"empty_rate"}
    assert "no judge" in plain["measure"]["scorers"][0]
