"""Mining from examples to pairs in a plain loop, with the reference VLM and no Ray."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from sightline.config.mine import MineConfig
from sightline.config.mining import MineSettings
from sightline.config.model import ModelConfig
from sightline.config.resources import ResourcesConfig
from sightline.data.examples import read_jsonl
from sightline.data.pairs import read_pairs
from sightline.distributed.mining import Mining, lexicon, plan
from sightline.errors import DataError
from sightline.preference.judges import Verdict
from sightline.records import Example
from sightline.world.dataset import write

SETTINGS = MineSettings(batch_size=8, shard_rows=16, max_new_tokens=16, short_answer_tokens=4, samples=2)


def first_is_right(answer: str, example: Example) -> Verdict:
    """A judge that finds some answers right and some wrong whatever the model has learnt."""
    right = sum(map(ord, answer)) % 2 == 0
    return Verdict(right, float(right), recall=1.0, words=len(answer.split()))


def mine(folder: Path, examples: list[Example], **settings):
    chosen = SETTINGS.model_copy(update=settings)
    return Mining(ModelConfig(), chosen, ResourcesConfig(), str(folder), ray=False)(examples)


@pytest.fixture(scope="module")
def examples(tmp_path_factory) -> list[Example]:
    return read_jsonl(write(tmp_path_factory.mktemp("world"), split="mine", scenes=4))


def test_from_examples_to_pairs(tmp_path, examples, monkeypatch):
    monkeypatch.setitem(sys.modules, "odd_judge", sys.modules[__name__])
    mined = mine(tmp_path, examples, judge="odd_judge:first_is_right", wrong_image="noise")
    report = json.loads((tmp_path / "mine_report.json").read_text())
    assert (report["asked"], report["with_context"]) == (len(examples), len(examples))
    found = sum(counts.get("pair", 0) for counts in report["found"].values())
    assert found == mined.pairs + sum(report["dropped"].values())
    success = json.loads((tmp_path / "pairs" / "_SUCCESS.json").read_text())
    assert success["pairs"] == mined.pairs == sum(report["by_condition"].values())
    if mined.pairs:
        pairs = read_pairs(mined.pairs_folder)
        assert len(pairs) == mined.pairs
        assert all(pair.provenance["answers"] or pair.provenance["samples"] for pair in pairs)
    parts = sorted((tmp_path / "mined").glob("part-*.parquet"))
    seen = [e for part in parts for e in pq.read_table(part)["example_id"].to_pylist()]
    assert set(seen) == {e.example_id for e in examples}


def test_context_comes_from_another_scene(tmp_path, examples):
    texts = {e.image_id: e.meta["caption"] for e in examples}
    mine(tmp_path, examples, conditions=("oa1",))
    for part in (tmp_path / "mined").glob("part-*.parquet"):
        for row in pq.read_table(part).to_pylist():
            retrieved = json.loads(row["provenance"])["retrieved"]
            assert retrieved in set(texts.values()) - {texts[row["image_id"]]}


def test_nothing_to_mine_is_said_before_work(tmp_path, examples):
    with pytest.raises(DataError, match="mining.conditions apply to"):
        mine(tmp_path / "a", [e for e in examples if e.kind != "caption"], conditions=("caption",))
    with pytest.raises(DataError, match="captions in the dataset"):
        mine(tmp_path / "b", [Example("e", "i", examples[0].image_uri, "q", "open", answer="a")])
    with pytest.raises(DataError, match="none of 1 found"):
        mine(tmp_path / "c", [Example("e", "i", "/no/such.png", "q", "open", answer="a")])
    assert not list(tmp_path.rglob("part-*"))


def test_a_run_in_which_every_row_failed_is_an_error(tmp_path, examples):
    unanswerable = [
        Example(e.example_id, e.image_id, e.image_uri, "q", "open", answer="") for e in examples[:9:8]
    ]
    with pytest.raises(DataError, match="2 failures, the first being .* the true `answer`"):
        mine(tmp_path, unanswerable, retrieved=0)


def test_plan_and_lexicon(tmp_path):
    assert "600 scenes" in plan(MineConfig())
    assert lexicon(MineSettings())["sofa"] == "couch"
    (tmp_path / "words.json").write_text('{"kitten": "cat"}')
    assert lexicon(MineSettings(lexicon=str(tmp_path / "words.json"))) == {"kitten": "cat"}
    with pytest.raises(DataError, match="a lexicon at"):
        lexicon(MineSettings(lexicon=str(tmp_path / "none.json")))
