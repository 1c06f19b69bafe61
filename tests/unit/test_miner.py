"""The mining Worker with a scripted model: what is asked, what becomes of the answers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from sightline.config.mining import MineSettings
from sightline.config.model import ModelConfig
from sightline.data.images import sha256_of
from sightline.errors import SpanError
from sightline.models.prompts import Prompt
from sightline.preference import wrong_image
from sightline.preference.gallery import Task
from sightline.preference.miner import Miner, MinerConfig, rules_for
from sightline.records import Answer, Example

LEXICON = {"dog": "dog", "cat": "cat", "couch": "couch"}


class Scripted:
    """Answers by image colour and context; notes every call. Stands in for a Vlm's `generate`."""

    source, revision, identity = "scripted", "", "id"

    def __init__(self, reply):
        self.reply, self.calls = reply, []

    def generate(self, prompts: Sequence[Prompt], *, num_samples: int = 1, **options) -> list[list[Answer]]:
        self.calls.append((list(prompts), num_samples, options))
        return [[Answer(self.reply(p, n)) for n in range(num_samples)] for p in prompts]

    def prompts(self) -> list[Prompt]:
        return [prompt for prompts, _, _ in self.calls for prompt in prompts]


@pytest.fixture
def photos(tmp_path):
    """Three one-coloured images: `red`, `green`, `blue`."""
    paths = {}
    for name in ("red", "green", "blue"):
        Image.new("RGB", (8, 8), name).save(tmp_path / f"{name}.png")
        paths[name] = str(tmp_path / f"{name}.png")
    return paths


def is_red(prompt: Prompt) -> bool:
    r, g, b = np.asarray(prompt.image).reshape(-1, 3).mean(axis=0)
    return bool(r > g and r > b)


def ask(name: str, photos, kind="yes_no", answer="Yes.", **more) -> Example:
    fields = {"question": "Is there a dog?", "objects": ("dog", "couch"), **more}
    number = fields.pop("number", 0)
    return Example(f"{name}/{kind}/{number}", name, photos[name], kind=kind, answer=answer, **fields)


def mine(examples, reply, **settings):
    """Finding rows by the Worker's column interface, and the scripted model."""
    config = MinerConfig(ModelConfig(), MineSettings(wrong_image="other", **settings), LEXICON)
    others = wrong_image.assign(examples, seed=0)
    tasks = [Task(example, tuple(others[example.image_id])).to_row() for example in examples]
    vlm = Scripted(reply)
    batch = {name: np.array([t[name] for t in tasks], dtype=object) for name in tasks[0]}
    columns = Miner(config, vlm)(batch)
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    return rows, vlm


def test_three_answers_make_the_three_conditions(photos):
    """The model believes its context, and without one it sees: cm and oa1 have no pair, oa2 has two."""
    examples = [ask("red", photos, context="Nothing here."), ask("green", photos, number=1, answer="No.")]
    rows, vlm = mine(examples, lambda p, n: "No." if p.context or not is_red(p) else "Yes.")
    red = [row for row in rows if row["image_id"] == "red"]
    assert [(r["condition"], r["outcome"], r["form"]) for r in red] == [
        ("cm", "identical", "with_context"),
        ("oa1", "reversed", "with_context"),
        ("oa2", "pair", "with_context"),
        ("oa2", "pair", "without_context"),
    ]
    assert [(r["chosen"], r["rejected"]) for r in red[2:]] == [("Yes.", "No.")] * 2
    assert [r["context"] for r in red[2:]] == ["Nothing here.", ""]
    assert len({r["pair_id"] for r in rows}) == len(rows)
    (green,) = [row for row in rows if row["image_id"] == "green"]
    assert (green["condition"], green["outcome"]) == ("cm", "pair" if is_red_wrong(green) else "identical")


def is_red_wrong(row) -> bool:
    return json.loads(row["provenance"])["wrong_image"]["image_id"] == "red"


def test_rows_of_an_image_share_one_object_and_nothing_is_asked_twice(photos):
    asked = [ask("red", photos, context="c", number=n, question=f"q{n}") for n in range(3)]
    _, vlm = mine([*asked, ask("green", photos, number=9)], lambda p, n: "Yes.")
    prompts = vlm.prompts()
    assert len(prompts) == 3 * 3 + 2
    assert len({(id(p.image), p.text) for p in prompts}) == len(prompts)
    assert len({id(p.image) for p in prompts if p.question.startswith("q")}) == 2, "one right, one wrong"


def test_provenance_holds_all_that_was_said(photos):
    examples = [ask("red", photos, context="c"), ask("green", photos, number=1)]
    rows, _ = mine(examples, lambda p, n: "Yes." if is_red(p) else "No.", judge="auto", seed=7)
    provenance = json.loads(rows[0]["provenance"])
    assert rows[0]["outcome"] == "pair"
    assert {source: a["text"] for source, a in provenance["answers"].items()} == {
        "with_context": "Yes.",
        "wrong_image": "No.",
        "image_alone": "Yes.",
    }
    assert provenance["wrong_image"]["image_id"] == "green"
    assert provenance["wrong_image"]["mode"] == "other"
    assert (provenance["truth"], provenance["retrieved"], provenance["seed"]) == ("Yes.", "c", 7)
    assert provenance["model"]["identity"] == "id"


def test_captions_are_sampled_from_the_image_alone(photos):
    texts = ["A dog on a couch.", "A dog on a couch and a cat.", "A cat."]
    examples = [ask("red", photos, "caption", "", context="c"), ask("green", photos, number=1)]
    rows, vlm = mine(examples, lambda p, n: texts[n % 3], samples=3, max_length_ratio=2.0)
    (row,) = [row for row in rows if row["kind"] == "caption"]
    assert (row["condition"], row["outcome"], row["context"]) == ("caption", "pair", "")
    assert (row["chosen"], row["rejected"]) == (texts[0], texts[1])
    sampled = [call for call in vlm.calls if call[1] == 3]
    assert len(sampled) == 1
    assert not sampled[0][0][0].context
    assert sampled[0][2]["temperature"] == MineSettings().caption_temperature


def test_unreadable_image_costs_its_own_rows_only(photos, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"not an image")
    photos["broken"] = str(tmp_path / "broken.png")
    photos["gone"] = str(tmp_path / "gone.png")
    names = ["red", "broken", "green", "gone", "blue"]
    examples = [ask(name, photos, number=n) for n, name in enumerate(names)]
    rows, _ = mine(examples, lambda p, n: "Yes.")
    failed = {row["image_id"] for row in rows if row["error"]}
    assert failed == {"broken", "gone"}
    assert {row["example_id"] for row in rows} == {e.example_id for e in examples}
    used = {json.loads(r["provenance"])["wrong_image"]["image_id"] for r in rows if not r["error"]}
    assert used <= {"red", "green", "blue"}, "a broken file is no wrong image either"


def test_hashes_are_filled_in_and_a_changed_file_is_refused(photos):
    changed = replace(ask("red", photos), sha256="0" * 64)
    rows, _ = mine(
        [changed, ask("green", photos, number=1), ask("blue", photos, number=2)], lambda p, n: "No."
    )
    assert "has changed since" in rows[0]["error"]
    for row in rows[1:]:
        wrong = json.loads(row["provenance"])["wrong_image"]
        assert row["sha256"] == sha256_of(row["image_uri"])
        assert wrong["sha256"] == sha256_of(wrong["image_uri"])


def test_a_question_the_model_cannot_take_fails_alone(photos):
    def reply(prompt: Prompt, n: int) -> str:
        if "<image>" in prompt.question:
            raise SpanError("two images in one prompt")
        return "Yes."

    questions = ["a", "b", "what is <image>?", "c"]
    examples = [ask("red", photos, number=n, question=q) for n, q in enumerate(questions)]
    rows, _ = mine([*examples, ask("green", photos, number=9)], reply)
    assert [row["error"] for row in rows if row["error"]] == ["two images in one prompt"]
    assert len(rows) == 5


def test_a_row_that_cannot_be_judged_fails_alone(photos):
    examples = [ask("red", photos, answer=""), ask("green", photos, number=1)]
    rows, _ = mine(examples, lambda p, n: "Yes.")
    assert "the true `answer`" in rows[0]["error"]
    assert not rows[1]["error"]


def test_pure_noise_needs_no_other_image(photos):
    config = MinerConfig(ModelConfig(), MineSettings(wrong_image="noise"), LEXICON)
    vlm = Scripted(lambda p, n: "Yes." if is_red(p) else "No.")
    ((row,),) = Miner(config, vlm).mine([Task(ask("red", photos))])
    assert not row["error"]
    right, noise = (np.asarray(p.image) for p in vlm.prompts())
    assert noise.shape == right.shape
    assert noise.std() > 30


def test_which_rules_apply(photos):
    settings = MineSettings()
    question, caption = ask("red", photos), ask("red", photos, "caption", "")
    assert rules_for(question, settings) == ("cm",)
    assert rules_for(ask("red", photos, context="c"), settings) == ("cm", "oa1", "oa2")
    assert rules_for(caption, settings) == ("caption",)
    assert rules_for(caption, MineSettings(caption_conditions=True)) == ("caption", "cm")
    assert rules_for(question, MineSettings(conditions=("caption",))) == ()
