"""Real photographs with known objects go from the loader to the report without a special case."""

import json

import pytest

from sightline.config.benchmark import BenchmarkConfig
from sightline.distributed.benchmark import Benchmark
from sightline.distributed.sources import load_examples
from sightline.evaluation.benchmark_page import render_html
from sightline.evaluation.benchmark_report import assemble
from sightline.evaluation.published import Published
from sightline.evaluation.run_folder import RunFolder, start_run
from sightline.metrics.objects import Lexicon
from sightline.world.nouns import LEXICON
from tests.unit.fake_answers import side
from tests.unit.tiny import fresh_vlm


@pytest.mark.golden
def test_the_25_photographs_from_loader_to_report(shared, tmp_path):
    config = BenchmarkConfig.model_validate(
        {
            "rows": [{"name": "spin", "mitigations": ["spin:k=0.8"]}],
            "benchmarks": {"tiny": {"type": "objects", "path": str(shared / "coco_photos")}},
            "nltk_data": str(shared / "nltk_data"),
            "bootstrap": 50,
            "shown": 12,
        }
    )
    examples = load_examples(config.benchmarks["tiny"], scratch=tmp_path)
    sides = [side("greedy", examples, wrong=len(examples)), side("spin", examples, wrong=0)]
    published = Published.of(config)
    report = assemble(config, {"name": "photos"}, sides, {"tiny": examples}, Lexicon(LEXICON), published)
    assert report["benchmarks"]["tiny"]["images"] == 25
    found = {(s["row"], s["benchmark"], s["metric"]): s for s in report["scores"]}
    # "A dog and a cat" and "Yes." everywhere, against "A dog" and "No." everywhere; one photograph has a dog
    # at most, so nearly every caption invents one.
    dogs = sum("dog" in e.objects for e in examples if e.kind == "caption")
    cats = sum("cat" in e.objects for e in examples if e.kind == "caption")
    assert found["spin", "caption", "chair_i"]["value"] == pytest.approx(1 - dogs / 25)
    assert found["greedy", "caption", "chair_i"]["value"] == pytest.approx(1 - (dogs + cats) / 50)
    for split in ("pope_random", "pope_popular", "pope_adversarial"):
        for row, yes in (("greedy", 1.0), ("spin", 0.0)):
            assert found[row, split, "yes_ratio"]["value"] == yes
            assert found[row, split, "accuracy"]["value"] == 0.5
    assert all({"low", "high", "n"} <= s.keys() for s in report["scores"])
    assert report["measure"]["scorers"] == [n for n in published.notes if n.startswith("CHAIR")]
    assert "WordNet 3.0" in report["measure"]["scorers"][0]
    captions = [e for e in report["examples"] if e["kind"] == "caption"]
    texts = [(a["text"], a["wrong"]) for e in captions for a in e["answers"]]
    marked = {text[start:end] for text, wrong in texts for start, end in wrong}
    assert marked <= {"dog", "cat"}
    assert "dog" in marked, "the report marks what the scorer calls wrong"
    assert json.loads(json.dumps(report)) == report
    assert "photos" in render_html(report)


@pytest.mark.golden
def test_photographs_through_the_job_itself(shared, tmp_path):
    fresh_vlm("smolvlm").save(tmp_path / "model")
    config = BenchmarkConfig.model_validate(
        {
            "run": {"root": str(tmp_path / "runs"), "name": "photos"},
            "model": {"source": str(tmp_path / "model")},
            "rows": [{"name": "spin", "mitigations": ["spin:k=0.5,alpha=0.0"]}],
            "benchmarks": {"photos": {"type": "objects", "path": str(shared / "coco_photos"), "limit": 2}},
            "nltk_data": str(shared / "nltk_data"),
            "max_new_tokens": 4,
            "short_answer_tokens": 2,
            "bootstrap": 20,
            "shown": 2,
        }
    )
    folder = RunFolder.at(config.run.folder)
    run = Benchmark(config, folder, start_run(folder, name="photos", config=config, seed=0), ray=False)
    run.answer()
    report = run.finish()
    assert report["benchmarks"]["photos"]["images"] == 2
    splits = {"caption", "pope_random", "pope_popular", "pope_adversarial"}
    assert {s["benchmark"] for s in report["scores"]} == splits
    assert {c["benchmark"] for c in report["comparisons"]} == splits
    assert {s["metric"] for s in report["scores"]} >= {"chair_s", "accuracy", "f1"}
    assert not report["refused"]
    assert [a["scored"] == a["asked"] > 0 for a in report["accounts"]] == [True, True]
    assert (folder.path / "report.html").stat().st_size > 10_000
