"""Object mentions and CHAIR on hand-made captions, and short answers."""

import math

import pytest

from sightline.errors import DataError
from sightline.metrics import short_answer
from sightline.metrics.objects import Lexicon, check_caption, plurals, tally, words

LEXICON = Lexicon(
    {
        "dog": "dog",
        "puppy": "dog",
        "traffic light": "traffic light",
        "light": "lamp",
        "bus": "bus",
        "person": "person",
        "man": "person",
        "glasses": "glasses",
        "glass": "cup",
        "wine glass": "wine glass",
        "knife": "knife",
    }
)


def nodes(text):
    return [m.node for m in LEXICON.mentions(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A dog and two puppies.", ["dog", "dog"]),
        ("Traffic lights over a light", ["traffic light", "lamp"]),
        ("a traffic-light", ["traffic light"]),
        ("heavy traffic. Light rain", ["lamp"]),
        ("buses, men and people with knives", ["bus", "person", "person", "knife"]),
        ("glasses next to a glass, wine glasses too", ["glasses", "cup", "wine glass"]),
        ("the dog's bowl", ["dog"]),
        ("hotdog, dogma, the busy street", []),
        ("", []),
        ("DOG", ["dog"]),
    ],
)
def test_mentions(text, expected):
    assert nodes(text) == expected


def test_spans_point_at_the_words():
    text = "Two puppies wait at the Traffic light — a man's dog."
    assert [text[m.start : m.end] for m in LEXICON.mentions(text)] == [
        "puppies",
        "Traffic light",
        "man",
        "dog",
    ]


@pytest.mark.parametrize(
    ("word", "plural"),
    [
        ("dog", "dogs"),
        ("bus", "buses"),
        ("bench", "benches"),
        ("berry", "berries"),
        ("boy", "boys"),
        ("wine glass", "wine glasses"),
        ("woman", "women"),
        ("snowman", "snowmen"),
        ("human", "humans"),
        ("mouse", "mice"),
        ("potato", "potatoes"),
    ],
)
def test_plurals(word, plural):
    assert plural in plurals(word)


def test_chair_in_closed_form():
    captions = ["A dog, a dog and a bus.", "A man.", "Nothing to see here."]
    truths = [("dog", "knife"), ("person",), ("bus",)]
    values = {name: ratio.value for name, ratio in tally(captions, truths, LEXICON).items()}
    assert values == pytest.approx(
        {"chair_s": 1 / 3, "chair_i": 1 / 4, "recall": 2 / 4, "length": (7 + 2 + 4) / 3}
    )


def test_truth_may_use_surface_forms_and_unknown_nouns():
    check = check_caption("A puppy and a bus.", ["puppies", "unicorn"], LEXICON)
    assert [m.node for m in check.invented] == ["bus"]
    assert check.missing == ("unicorn",)


def test_zero_captions_and_zero_mentions_are_undefined_not_fatal():
    assert all(math.isnan(r.value) for r in tally([], [], LEXICON).values())
    values = {k: r.value for k, r in tally([""], [()], LEXICON).items()}
    assert values["chair_s"] == 0
    assert values["length"] == 0
    assert math.isnan(values["chair_i"])
    assert math.isnan(values["recall"])


def test_refusals():
    with pytest.raises(DataError, match="lexicon"):
        Lexicon({})
    with pytest.raises(DataError, match="letter"):
        Lexicon({"...": "dog"})
    with pytest.raises(DataError, match="captions"):
        tally(["a"], [], LEXICON)


def test_words():
    assert words("It's a well-lit room, isn't it?") == 7


def test_short_answers():
    assert short_answer.equal("Red.", "red")
    assert short_answer.equal("Two.", "2")
    assert short_answer.equal("To the left", "to  the LEFT.")
    assert not short_answer.equal("", "red")
    tallied = short_answer.tally(["Red.", "blue", ""], ["red", "red", "red"])
    assert tallied["accuracy"].value == pytest.approx(1 / 3)
    assert tallied["empty_rate"].value == pytest.approx(1 / 3)
    sentences = ["The couch is red.", "Red or blue.", "It is blue."]
    assert short_answer.tally(sentences, ["Red.", "Red.", "Blue."])["accuracy"].numerator_N.tolist() == [
        1,
        0,
        1,
    ]
    assert math.isnan(short_answer.tally([], [])["accuracy"].value)
    with pytest.raises(DataError, match="answers"):
        short_answer.tally(["a"], [])
