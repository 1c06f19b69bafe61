"""The embedded world: truth is exact, everything is reproducible, POPE is balanced."""

import json
import re
from collections import Counter

import numpy as np
import pytest

from sightline.errors import ConfigError
from sightline.records import Example
from sightline.world import captions, dataset, pope, questions
from sightline.world.nouns import COLORS, COMPANIONS, CONTEXTS, LEXICON, NOUNS
from sightline.world.render import render
from sightline.world.scenes import Item, Scene, sample, stream


def scene_of(*items: tuple[str, str, int, int, int]) -> Scene:
    return Scene("kitchen", tuple(Item(*item, strength=1.0) for item in items), noise=0, seed=(0, 0))


SIMPLE = scene_of(("fork", "red", 20, 50, 30), ("cup", "blue", 70, 20, 20), ("cup", "green", 70, 80, 20))


def test_the_world_is_as_large_as_promised():
    assert len(NOUNS) >= 32
    assert len(COLORS) == 6
    assert len(CONTEXTS) == 5
    assert {noun for nouns in CONTEXTS.values() for noun in nouns} == set(NOUNS)
    assert all(COMPANIONS[COMPANIONS[noun]] == noun for noun in COMPANIONS)
    assert set(LEXICON.values()) == set(NOUNS)


def test_a_scene_is_its_seed_and_index():
    assert sample(3, 17) == sample(3, 17)
    assert sample(3, 17) != sample(3, 18)
    assert render(sample(3, 17)).tobytes() == render(sample(3, 17)).tobytes()


def test_every_noun_has_a_picture_of_its_own():
    pictures = {render(scene_of((noun, "blue", 48, 48, 36))).tobytes() for noun in NOUNS}
    assert len(pictures) == len(NOUNS)


def test_an_icon_is_drawn_where_the_scene_says_and_in_its_color():
    pixels = np.asarray(render(scene_of(("tv", "red", 24, 70, 20)))).astype(int)
    is_red = (np.abs(pixels - np.array(COLORS["red"])).sum(-1) < 12).nonzero()
    assert is_red[0].size > 20
    assert 60 <= is_red[0].min() <= is_red[0].max() <= 80
    assert 14 <= is_red[1].min() <= is_red[1].max() <= 34


def test_nouns_keep_company():
    scenes = list(stream(5, 2000))
    together = sum("fork" in s.objects and "knife" in s.objects for s in scenes)
    apart = sum("fork" in s.objects and "airplane" in s.objects for s in scenes)
    assert together > 5 * max(1, apart)


def test_truth_of_each_kind_of_question():
    rng = np.random.default_rng(0)
    assert questions.existence(SIMPLE, "fork").answer == "Yes."
    assert questions.existence(SIMPLE, "apple") == questions.Question(
        "Is there an apple in the image?", "No.", "yes_no", "apple"
    )
    assert questions.color(SIMPLE, rng).answer == "Red."  # the only noun that is there once
    answers = {q.noun: q.answer for q in (questions.count(SIMPLE, rng) for _ in range(20))}
    assert answers == {"fork": "One.", "cup": "Two."}
    assert questions.relation(SIMPLE, rng) is None  # two cups: which one?


@pytest.mark.parametrize("index", range(40))
def test_relations_agree_with_the_coordinates(index):
    scene, rng = sample(8, index), np.random.default_rng(index)
    question = questions.relation(scene, rng)
    if question is None:
        return
    match = re.fullmatch(r"Is the (.+) (left of|right of|above|below) the (.+)\?", question.text)
    (a,), (b,) = scene.of(match[1]), scene.of(match[3])
    holds = {"left of": a.x < b.x, "right of": a.x > b.x, "above": a.y < b.y, "below": a.y > b.y}
    assert question.answer == ("Yes." if holds[match[2]] else "No.")


def test_captions_name_what_is_there_and_annotators_assume():
    assert captions.faithful(SIMPLE) == "This is a kitchen with a red fork and two cups."
    assert captions.assumed_companion(SIMPLE) == "knife" == COMPANIONS["fork"]
    written = Counter(captions.annotated(SIMPLE, np.random.default_rng(i)) for i in range(400))
    assert set(written) == {
        "This is a kitchen with a red fork and two cups.",
        "This is a kitchen with a red fork, two cups and a knife.",
    }
    assert 0.80 < written["This is a kitchen with a red fork, two cups and a knife."] / 400 < 0.90


@pytest.mark.parametrize("negatives", pope.SPLITS)
def test_pope_is_balanced_true_and_seeded(negatives):
    scenes = list(stream(6, 300))
    built = pope.build(scenes, negatives, seed=1)
    assert built == pope.build(scenes, negatives, seed=1)
    for scene, asked in zip(scenes, built, strict=True):
        assert Counter(q.answer for q in asked) in ({"Yes.": len(asked) // 2, "No.": len(asked) // 2},)
        assert all((q.noun in scene.objects) == (q.answer == "Yes.") for q in asked)
        assert len({q.noun for q in asked}) == len(asked)


def test_adversarial_negatives_keep_company_with_the_scene():
    scenes = list(stream(6, 1500))
    share = {}
    for negatives in pope.SPLITS:
        absent = [
            (q.noun, s)
            for s, qs in zip(scenes, pope.build(scenes, negatives), strict=True)
            for q in qs
            if q.answer == "No."
        ]
        share[negatives] = np.mean([COMPANIONS.get(noun) in s.objects for noun, s in absent])
    assert share["adversarial"] > 2 * share["random"]


def test_pope_refuses_an_unknown_split():
    with pytest.raises(ConfigError, match="random"):
        pope.build([SIMPLE], "hard")


def test_dataset_on_disk_is_complete_and_reproducible(tmp_path):
    path = dataset.write(tmp_path / "a", split="test", scenes=5)
    rows = [Example.from_row(json.loads(line)) for line in path.read_text().splitlines()]
    again = dataset.write(tmp_path / "b", split="test", scenes=5).read_text()
    assert again == path.read_text().replace(str(tmp_path / "a"), str(tmp_path / "b"))
    assert len({row.example_id for row in rows}) == len(rows)
    assert {row.split for row in rows} >= {"pope_random", "pope_popular", "pope_adversarial", "caption"}
    assert all((tmp_path / "a" / "images" / f"{row.image_id}.png").is_file() for row in rows)
    assert all(row.objects and row.meta["caption"] for row in rows)


def test_references_are_what_they_are_called(tmp_path):
    path = dataset.write(tmp_path, split="test", scenes=20, with_references=True)
    rows = [Example.from_row(json.loads(line)) for line in path.read_text().splitlines()]
    referenced = [row for row in rows if row.split.startswith("reference_")]
    assert Counter(row.split for row in referenced) == dict.fromkeys(
        ("reference_none", "reference_true", "reference_unrelated", "reference_misleading"), 40
    )
    for row in referenced:
        named = {LEXICON[w] for w in LEXICON if re.search(rf"\b{w}\b", row.context)}
        if row.split == "reference_true":
            assert named == set(row.objects)
        if row.split == "reference_misleading":
            assert (row.meta["noun"] in named) == (row.answer == "No.")


def test_another_seed_is_other_scenes(tmp_path):
    written = [dataset.write(tmp_path / str(seed), split="test", scenes=3, seed=seed) for seed in (0, 1)]
    assert written[0].read_text().count('"pope_random"') > 0
    images = [{p.read_bytes() for p in path.parent.joinpath("images").iterdir()} for path in written]
    assert not images[0] & images[1]


def test_the_streams_of_the_splits_never_meet(tmp_path):
    assert len(set(dataset.SEEDS.values())) == len(dataset.SEEDS)
    written = [dataset.write(tmp_path / split, split=split, scenes=1) for split in ("mine", "test")]
    assert len({path.parent.joinpath("images").iterdir().__next__().read_bytes() for path in written}) == 2
