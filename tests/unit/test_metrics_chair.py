"""CHAIR against the golden table, word for word; the tagger against NLTK's; the quirks."""

import json
import math
import random

import pytest

from sightline.errors import DataError
from sightline.metrics.chair import Chair, Quirks, ratios
from sightline.metrics.coco_words import OWN, CocoWords
from sightline.metrics.english import English

RUNS = (
    "instructblip_beam5",
    "instructblip_greedy",
    "instructblip_ours",
    "llava-1.5_beam5",
    "llava-1.5_greedy",
    "llava-1.5_ours",
)


def rows(path):
    return [json.loads(line) for line in path.open()]


@pytest.fixture(scope="module")
def official(shared):
    return CocoWords.parse((shared / "chair" / "synonyms.txt").read_text())


@pytest.fixture(scope="module")
def chair(official, english):
    return Chair(official, english=english, fallback=False)


@pytest.fixture(scope="module")
def truth(shared):
    return {int(k): v for k, v in json.loads((shared / "chair" / "gt_objects.json").read_text()).items()}


@pytest.mark.golden
@pytest.mark.parametrize("run", RUNS)
def test_every_caption_word_for_word_and_the_totals(shared, chair, truth, run):
    captions = rows(shared / "chair" / "captions" / f"{run}.jsonl")
    golden = rows(shared / "chair" / "golden_per_caption" / f"{run}.jsonl")
    checks = [chair.check(row["caption"], truth[row["image_id"]]) for row in captions]
    for row, check, expected in zip(captions, checks, golden, strict=True):
        one = {name: ratio.value for name, ratio in ratios([check]).items()}
        assert row["image_id"] == expected["image_id"]
        assert [m.node for m in check.mentions] == expected["generated"]
        assert [[m.word, m.node] for m in check.invented] == expected["hallucinated"]
        assert check.words == expected["n_words"]
        assert one["chair_s"] == expected["CHAIRs"]
        assert (one["chair_i"] if check.mentions else 0.0) == expected["CHAIRi"]
        assert (one["recall"] if check.truth else 0.0) == expected["Recall"]
    overall = json.loads((shared / "chair" / "golden_overall.json").read_text())[run]
    tallied = {name: ratio.value for name, ratio in ratios(checks).items()}
    names = {"CHAIRs": "chair_s", "CHAIRi": "chair_i", "Recall": "recall"}
    for theirs, ours in names.items():
        assert tallied[ours] == pytest.approx(overall[theirs], abs=1e-9)
    assert tallied["length"] / 100 == pytest.approx(overall["Len"], abs=1e-9)


def test_the_official_list_is_known_and_its_rules_are_ours(shared, official):
    assert "published CHAIR" in official.name
    assert "published CHAIR" in OWN.name
    assert OWN.name != official.name
    released = json.loads((shared / "chair" / "double_word_dict.json").read_text())
    released.pop("stove top oven")  # three words, which pairs of words never match
    assert official.doubles() == released
    inverse = json.loads((shared / "chair" / "inverse_synonym_dict.json").read_text())
    inverse.pop("")
    assert official.nodes() == inverse
    assert CocoWords.parse("dog, puppy\n").name.startswith("a list of 1 objects")
    with pytest.raises(DataError, match="empty list"):
        CocoWords.parse("\n\n")


def test_tokens_and_tags_are_nltks(shared, english):
    """Real captions, and the same words shuffled, so that odd contexts and ties come up."""
    captions = [row["caption"] for row in rows(shared / "chair" / "captions" / "llava-1.5_greedy.jsonl")]
    rng = random.Random(0)
    odd = [
        'He said "no", didn\'t he? (3,000 cats) -- gonna-go... e.g. 5.5 x@y; cannot. ',
        "",
        "l'été «ok» ’s",
    ]
    for text in [*captions[:60], *odd, *map(str.upper, captions[60:70])]:
        expected = [t for s in english._sentences.tokenize(text) for t in english._words.tokenize(s)]
        assert english.tokens(text) == expected
        for tokens in (expected, rng.sample(expected, len(expected))):
            tags = [tag for _, tag in english.tagger.tag(tokens)]
            assert english.tags(tokens) == tags
            wanted = [rng.random() < 0.1 for _ in tokens]
            some = english.tags(tokens, wanted)
            assert [t for t, w in zip(some, wanted, strict=True) if w] == [
                t for t, w in zip(tags, wanted, strict=True) if w
            ]


def test_quirks_are_switches(official, english):
    caption = "A motor bike, a cheesecake and the seat of a toilet, a dog."
    released = Chair(official, english=english).check(caption, ["dog"])
    assert [m.node for m in released.invented] == ["toilet"]
    mended = Chair(official, english=english, quirks=Quirks(as_written=False)).check(caption, ["dog"])
    assert [m.node for m in mended.invented] == ["motorcycle", "cake", "toilet"]
    places = {
        name: [
            m.index
            for m in Chair(official, english=english, quirks=Quirks(indices=name)).mentions(caption)[0]
        ]
        for name in ("tokens", "opera", "pai")
    }
    # tokens: a motor bike , a cheesecake and the seat of a toilet , a dog .
    assert places == {"tokens": [11, 14], "opera": [10, 13], "pai": [9, 12]}


def test_double_words_and_spans(official, english):
    chair = Chair(official, english=english)
    caption = "İ “Two” baby zebras located near Traffic Lights; a cat's bow ties."
    check = chair.check(caption, ["zebra"])
    assert [m.word for m in check.mentions] == ["zebra", "traffic light", "cat", "tie"]
    assert [caption[a:b] for a, b in chair.spans(caption, check.mentions)] == [
        "baby zebras",
        "Traffic Lights",
        "cat",
        "bow ties",
    ]


def test_truth_is_annotations_and_what_references_name(official, english):
    chair = Chair(official, english=english)
    assert chair.truth(["dining table"], ["Two puppies in a van."]) == {"dining table", "dog", "car"}


@pytest.mark.parametrize("fallback", [False, True])
def test_in_closed_form_on_our_own_words(fallback, request):
    english = None if fallback else request.getfixturevalue("english")
    chair = Chair(english=english, nltk_data="/nowhere") if fallback else Chair(english=english)
    assert ("plural rules" in chair.lemmatiser) == fallback
    captions = ["A dog, two dogs and a bus.", "A kitten.", "Nothing to see here."]
    tallied = chair.tally(captions, [("dog", "knife"), ("cat",), ("bus",)])
    values = {name: ratio.value for name, ratio in tallied.items()}
    assert values == pytest.approx(
        {
            "chair_s": 1 / 3,
            "chair_i": 1 / 4,
            "recall": 2 / 4,
            "length": (9 + 3 + 5) / 3,
            "set_precision": 2 / 3,
            "set_f1": 2 * 2 / (3 + 4),
        }
    )


def test_nothing_divides_by_zero():
    chair = Chair(nltk_data="/nowhere")
    assert all(math.isnan(r.value) for r in chair.tally([], []).values())
    values = {name: ratio.value for name, ratio in chair.tally([""], [()]).items()}
    assert values["chair_s"] == values["length"] == 0
    assert math.isnan(values["chair_i"])
    with pytest.raises(DataError, match="captions"):
        chair.tally(["a"], [])


def test_missing_nltk_data_are_named():
    with pytest.raises(DataError, match="punkt_tab"):
        English("/nowhere")
    with pytest.raises(DataError, match="NLTK_DATA"):
        Chair(nltk_data="/nowhere", fallback=False)
