"""Visual and medical questions, reports against references, scripts: by hand."""

import math

import pytest

from sightline.errors import DataError
from sightline.metrics import medical, text_overlap, vqa
from sightline.metrics.script import is_other_script
from sightline.metrics.vqa import Accepted

HEIGHT = Accepted(("8849",), 7964.0, 9734.0)


@pytest.mark.parametrize(
    ("answer", "accepted", "exact", "relaxed"),
    [
        ("The Nile.", Accepted(("nile", "Nile River")), True, True),
        ("It is the Nile River in Egypt", Accepted(("nile",)), False, True),
        ("Nilesh", Accepted(("nile",)), False, False),
        ("Two", Accepted(("2",)), True, True),
        ("about 8,900 m", HEIGHT, False, True),
        ("10000", HEIGHT, False, False),
        ("8000-9500", HEIGHT, False, True),
        ("100 to 9500", HEIGHT, False, False),
        ("8849 or 3 or 4", HEIGHT, False, False),
        ("", HEIGHT, False, False),
        ("珠穆朗玛峰", Accepted(("everest",)), False, False),
    ],
)
def test_exact_and_relaxed(answer, accepted, exact, relaxed):
    assert vqa.exact(answer, accepted) == exact
    assert vqa.relaxed(answer, accepted) == relaxed


def test_visual_questions_in_closed_form():
    tallied = vqa.tally(["nile", "", "9000"], [Accepted(("Nile",)), Accepted(("a b",)), HEIGHT])
    assert {k: r.value for k, r in tallied.items()} == pytest.approx(
        {"exact": 1 / 3, "relaxed": 2 / 3, "empty_rate": 1 / 3}
    )
    soft = vqa.soft_tally(["Red", "blue"], [["red"] * 2 + ["pink"] * 8, ["blue"] * 10])
    assert soft["soft_accuracy"].value == pytest.approx((2 / 3 + 1) / 2)
    assert vqa.infoseek_score(0.2, 0.3) == pytest.approx(0.24)
    assert vqa.infoseek_score(0.0, 0.0) == 0
    assert math.isnan(vqa.infoseek_score(math.nan, 0.3))
    assert all(math.isnan(r.value) for r in vqa.tally([], []).values())
    with pytest.raises(DataError, match="accepted"):
        vqa.tally(["a"], [])


@pytest.mark.parametrize(
    ("label", "kind", "truth"),
    [
        ("yes", "clean", True),
        ("No.", "clean", False),
        ("- no", "dirty", False),
        ("**Answer:** Yes", "dirty", True),
        ("The answer is no.", "dirty", False),
        ("The summary does not provide information on this.", "unusable", None),
        ("Is there a pneumothorax?", "unusable", None),
        ("yes and no", "unusable", None),
        ("", "unusable", None),
    ],
)
def test_labels(label, kind, truth):
    assert medical.read_label(label) == (kind, truth)


def test_medical_counts_by_hand():
    labels = ["yes", "yes", "- no", "The summary does not say.", "yes"]
    answers = ["Yes.", "I cannot determine that from the image.", "No", "Yes", "No"]
    values = {name: r.value for name, r in medical.tally(answers, labels).items()}
    assert values["accuracy"] == pytest.approx(2 / 4)
    assert values["recall"] == pytest.approx(1 / 3)
    assert values["majority"] == pytest.approx(3 / 4)
    assert values["dirty_label_rate"] == pytest.approx(1 / 5)
    assert values["unusable_label_rate"] == pytest.approx(1 / 5)
    assert values["abstention_rate"] == pytest.approx(1 / 5)
    assert all(math.isnan(r.value) for r in medical.tally([], []).values())
    only_bad = medical.tally(["Yes"], ["?"])
    assert math.isnan(only_bad["accuracy"].value)
    assert math.isnan(only_bad["majority"].value)


def test_abstaining_is_told_by_whole_words():
    assert medical.abstains("I'm unsure.")
    assert medical.abstains("It can't be determined from this view")
    assert not medical.abstains("I am sure that it is a fracture.")
    assert not medical.abstains("Surely not.")


def test_unsuitable_questions_by_hand():
    answers = [
        "E. Not a suitable question",
        "This is not a suitable question.",
        "Don't know",
        "A",
        "B) effusion",
    ]
    golds = ["E", "E", "E", "A", "A"]
    unsuitable = [True, True, True, False, False]
    strict = {n: r.value for n, r in medical.tally_choices(answers, golds, unsuitable).items()}
    assert strict == pytest.approx(
        {"accuracy": 4 / 5, "caught": 1.0, "refused_suitable": 0.0, "unparsed_rate": 0.0}
    )
    released = medical.tally_choices(answers, golds, unsuitable, rule="released")
    assert released["caught"].value == pytest.approx(1 / 3)
    assert released["accuracy"].value == pytest.approx(2 / 5)
    assert medical.choice("Don't know", "released") == "D"
    assert medical.choice("Don't know") == ""
    assert medical.choice("The correct answer is C.") == "C"
    assert medical.choice("A fracture") == "A", (
        "an article reads like a choice; only options in the prompt help"
    )


def test_overlap_with_references(english):
    references = [["the cat sat on the mat"], ["a dog", "the dog runs in the park"], [""], ["x y"]]
    texts = ["the cat sat on the mat", "the dog runs in the park", "anything", ""]
    tallied = text_overlap.tally(texts, references, english=english)
    assert tallied["bleu"].numerator_N.tolist() == pytest.approx([1, 1, 0, 0])
    assert tallied["rouge_l"].numerator_N.tolist() == pytest.approx([1, 1, 0, 0])
    assert tallied["meteor"].numerator_N[0] > 0.99
    assert tallied["bleu"].denominator_N.tolist() == [1, 1, 0, 1]
    assert tallied["empty_rate"].value == 0.25
    assert "meteor" not in text_overlap.tally(texts, references)
    assert text_overlap.corpus_bleu(texts[:2], references[:2]) == pytest.approx(1)
    assert math.isnan(text_overlap.corpus_bleu(["a"], [[]]))
    assert all(math.isnan(r.value) for r in text_overlap.tally([], []).values())
    assert "sacrebleu" in text_overlap.libraries()
    with pytest.raises(DataError, match="references"):
        text_overlap.tally(["a"], [])


def test_rouge_l_by_hand():
    """LCS of "a b c d" and "a c x" is 2: precision 2/4, recall 2/3, F1 4/7."""
    tallied = text_overlap.tally(["aa bb cc dd"], [["aa cc xx"]])
    assert tallied["rouge_l"].value == pytest.approx(4 / 7)


def test_scripts():
    assert is_other_script("это кошка")
    assert is_other_script("图中有一只狗 (dog)")
    assert not is_other_script("une forêt, 3 élans")
    assert not is_other_script("42!")
    assert not is_other_script("")
