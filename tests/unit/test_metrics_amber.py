"""AMBER by hand: on a small table, and on its own annotations with answers written for them."""

import json
import math

import numpy as np
import pytest

from sightline.data.amber import read_amber, read_amber_words
from sightline.errors import DataError
from sightline.metrics.amber import (
    AmberWords,
    ExactOnly,
    VectorSimilarity,
    describe,
    discriminative,
    generative,
    score,
)

WORDS = AmberWords(
    {
        "person": ["man", "woman"],
        "woman": [],
        "tree": ["leaf"],
        "dog": ["puppy"],
        "cat": [],
        "car": [],
        "line": [],
    },
    frozenset({"line"}),
)


def test_a_description_by_hand():
    """person covers by "man", "woman" by itself; puppy is imagined (dog) and invented; car invented;
    line never counts; unicorn is in no table; Tree is not lower-cased."""
    nouns = ["man", "woman", "puppy", "car", "line", "unicorn", "Tree"]
    found = describe(nouns, ["person", "woman", "tree"], ["dog", "cat"], WORDS)
    assert found.nouns == ("man", "woman", "puppy", "car", "line")
    assert found.invented == ("puppy", "car")
    assert found.covered == {0, 1}
    assert found.imagined == {0}


def test_released_lets_an_association_take_the_cover():
    assert describe(["woman"], ["person", "woman"], [], WORDS, mode="paper").covered == {1}
    assert describe(["woman"], ["person", "woman"], [], WORDS, mode="released").covered == {0}


def test_similar_words_may_cover_and_be_imagined_at_once():
    vectors = {"dog": [1.0, 0.0], "cat": [0.99, 0.1], "car": [0.0, 1.0], "tree": [0.0, 0.0]}
    alike = VectorSimilarity(vectors, name="by hand")
    assert alike("dog", "cat")
    assert not alike("dog", "car")
    assert not alike("dog", "tree")
    assert not alike("dog", "person")
    found = describe(["cat"], ["dog"], ["cat"], WORDS, similar=alike)
    assert (found.invented, found.covered, found.imagined) == ((), {0}, {0})
    assert "no word vectors" in ExactOnly.name
    assert "0.8" in alike.name
    assert describe(["cat"], ["dog"], ["cat"], WORDS).invented == ("cat",)


def test_counts_by_hand():
    answers = ["man woman puppy car", "tree", ""]
    tallied = generative(
        answers, [["person", "woman"], ["tree"], []], [["dog"], [], ["cat"]], WORDS, nouns=str.split
    )
    values = {name: ratio.value for name, ratio in tallied.items()}
    assert values == pytest.approx(
        {"chair": 2 / 5, "cover": 3 / 3, "hal": 1 / 3, "cog": 1 / 2, "empty_rate": 1 / 3}
    )
    nothing = generative([], [], [], WORDS, nouns=str.split)
    assert all(math.isnan(ratio.value) for ratio in nothing.values())
    with pytest.raises(DataError, match="answers"):
        generative(["a"], [], [], WORDS, nouns=str.split)


def test_questions_by_hand():
    answers = ["No", "No", "Yes", "no", "Yes", ""]
    truths = ["no", "yes", "yes", "no", "no", "yes"]
    types = ["discriminative-hallucination"] * 2 + ["discriminative-attribute-state"] * 2
    types += ["discriminative-attribute-action", "relation"]
    tables = discriminative(answers, truths, types)
    values = {name: r.value for name, r in tables["all"].items()}
    assert values == pytest.approx(
        {"accuracy": 2 / 6, "precision": 1 / 2, "recall": 1 / 3, "f1": 2 / 5, "unparsed_rate": 2 / 6}
    )
    assert tables["existence"]["accuracy"].value == 0.5
    assert tables["attribute"]["accuracy"].value == pytest.approx(1 / 3)
    assert tables["state"]["unparsed_rate"].value == 0.5
    assert tables["action"]["recall"].value == 0
    assert math.isnan(tables["action"]["precision"].value)
    assert math.isnan(tables["number"]["accuracy"].value)
    assert tables["relation"]["accuracy"].value == 0
    with pytest.raises(DataError, match="types"):
        discriminative(["No"], ["no"], ["colour"])
    with pytest.raises(DataError, match="yes and no"):
        discriminative(["No"], ["maybe"], ["relation"])


def test_the_score_of_both_parts():
    assert score(0.1, 0.8) == pytest.approx(0.85)
    assert math.isnan(score(math.nan, 0.8))


@pytest.mark.golden
def test_on_the_released_annotations(shared, english):
    """Image 1: sky, forest, grass, person, lake, mountain, road; imaginable cloud, sun, bird, dog, flower."""
    examples = read_amber(shared / "amber")
    associated, safe = read_amber_words(shared / "amber")
    words = AmberWords(associated, safe)
    assert len(safe) == 9
    described = [e for e in examples if e.split == "amber_generative"]
    assert len(described) == 1004
    assert described[0].meta["edition"] == "released"
    first = described[0]
    # sky, mountain, lake, man (person), trees (forest) are true; birds are imagined; the boat is neither;
    # "camera" is a safe word, "colors" is in no table.
    answer = "A man with a camera stands by a lake under the sky. Trees and mountains, birds, a boat, colors."
    nouns = english.nouns(answer)
    found = describe(nouns, first.objects, first.meta["hallu"], words)
    assert {first.objects[i] for i in found.covered} == {"sky", "mountain", "lake", "person"} | (
        {"forest"} if "tree" in nouns else set()
    )
    assert set(found.invented) == {"bird", "boat"}
    assert {first.meta["hallu"][i] for i in found.imagined} == {"bird"}
    relations = [e for e in examples if e.split == "amber_relation"]
    perfect = discriminative(
        [e.answer.capitalize() for e in relations],
        [e.answer for e in relations],
        [e.meta["type"] for e in relations],
    )
    assert perfect["relation"]["f1"].value == 1
    truths = json.loads((shared / "amber" / "annotations.json").read_text())
    assert np.mean([t["truth"] == "no" for t in truths[1004:]]) == pytest.approx(
        sum(t["truth"] == "no" for t in truths[1004:]) / 14216
    )
