"""Yes/no parsing, row for row as METHODS.md 2.1 has it for every code base, and the counts."""

import math
from typing import get_args

import pytest

from sightline.config.evaluation import Parser
from sightline.errors import ConfigError, DataError
from sightline.metrics.yes_no import PARSERS, disagreements, parse, read_truth, tally

RELEASED = [
    # answer, official, opera, spin, vcd where yes is right, vcd where no is right, lmms-eval, vlmevalkit
    ("Yes", "yes", "yes", "yes", "right", "wrong", "yes", "yes"),
    ("NO", "yes", "no", "no", "wrong", "right", "no", "no"),
    ("No.", "no", "no", "no", "wrong", "right", "unparsed", "no"),
    ("Yes, there is a dog.", "yes", "yes", "yes", "right", "wrong", "unparsed", "yes"),
    ("There is a dog in the image.", "yes", "yes", "unparsed", "wrong", "wrong", "unparsed", "unparsed"),
    ("There isn't a dog.", "yes", "no", "no", "wrong", "wrong", "unparsed", "unparsed"),
    ("There is not a dog.", "no", "no", "no", "wrong", "right", "unparsed", "unparsed"),
    ("Yes. There is no cat though.", "yes", "no", "no", "right", "right", "unparsed", "unparsed"),
    ("It is a cat. No dog.", "yes", "no", "no", "wrong", "right", "unparsed", "no"),
    ("I don't know", "yes", "no", "no", "wrong", "right", "unparsed", "unparsed"),
    ("Yes, not only one", "no", "no", "no", "right", "right", "unparsed", "yes"),
    ("\nNo", "yes", "yes", "unparsed", "wrong", "right", "no", "no"),
    ("", "yes", "yes", "unparsed", "wrong", "wrong", "unparsed", "unparsed"),
]
STRICT = [
    ("Yes", "yes"),
    ("NO", "no"),
    ("No.", "no"),
    ("Yes, there is a dog.", "yes"),
    ("There is a dog in the image.", "yes"),
    ("There isn't a dog.", "no"),
    ("There is not a dog.", "no"),
    ("Yes. There is no cat though.", "yes"),
    ("It is a cat. No dog.", "unparsed"),
    ("I don't know", "unparsed"),
    ("Yes, not only one", "yes"),
    ("\nNo", "no"),
    ("", "unparsed"),
    # beyond the table
    ("No, no dog here.", "no"),
    ("yes and no", "unparsed"),
    ("Yes/no", "unparsed"),
    ("**Yes**", "yes"),
    ("Nobody is here", "unparsed"),
    ("No idea.", "unparsed"),
    ("There's no dog", "no"),
    ("There are no dogs.", "no"),
    ("There is a cat but no dog.", "unparsed"),
    ("Ja, da ist ein Hund.", "unparsed"),
]


@pytest.mark.golden
@pytest.mark.parametrize("row", RELEASED, ids=lambda row: repr(row[0]))
def test_every_released_parser(row):
    answer, official, opera, spin, vcd_yes, vcd_no, lmms_eval, vlmevalkit = row
    assert parse(answer, "official") == official
    assert parse(answer, "opera") == opera
    assert parse(answer, "spin") == spin
    assert (parse(answer, "vcd", True) == "yes") == (vcd_yes == "right")
    assert (parse(answer, "vcd", False) == "no") == (vcd_no == "right")
    assert parse(answer, "lmms-eval") == lmms_eval
    assert parse(answer, "vlmevalkit") == vlmevalkit


@pytest.mark.parametrize(("answer", "strict"), STRICT)
def test_the_strict_parser(answer, strict):
    assert parse(answer, "strict") == strict


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        ("yes,no", "unparsed"),  # a comma between letters becomes a space
        ("no,thing", "no"),
        ("yes - 3,000 of them (no-one)", "yes"),  # digits with a comma: every sign vanishes, so "noone"
        ("no." + " a." * 40, "no"),
        ("**no**", "unparsed"),  # the asterisk is none of its signs
    ],
)
def test_vlmevalkits_punctuation(answer, verdict):
    assert parse(answer, "vlmevalkit") == verdict


def test_counts_in_closed_form():
    truths = ["Yes."] * 4 + ["No."] * 6
    answers = ["Yes."] * 3 + ["Who knows?"] + ["Yes."] * 2 + ["No."] * 3 + [""]
    values = {name: ratio.value for name, ratio in tally(answers, truths, parser="strict").items()}
    assert values == pytest.approx(
        {
            "accuracy": 6 / 10,
            "precision": 3 / 5,
            "recall": 3 / 4,
            "f1": 6 / (6 + 2 + 1),
            "yes_ratio": 5 / 10,
            "false_yes_rate": 2 / 6,
            "unparsed_rate": 2 / 10,
        }
    )


@pytest.mark.parametrize(
    ("parser", "accuracy", "recall", "yes_ratio"),
    [
        ("vlmevalkit", 2 / 6, 1 / 3, 2 / 6),  # Unknown: wrong, and a No in recall and F1
        ("lmms-eval", 2 / 6, 1 / 2, 2 / 6),  # other: wrong, but no missed yes
        ("spin", 2 / 4, 1 / 2, 2 / 4),  # dropped from every denominator
    ],
)
def test_what_an_unread_answer_costs(parser, accuracy, recall, yes_ratio):
    answers = ["yes", "no", "maybe", "yes", "no", ""]
    truths = ["yes", "yes", "yes", "no", "no", "no"]
    values = {name: ratio.value for name, ratio in tally(answers, truths, parser=parser).items()}
    assert values["accuracy"] == pytest.approx(accuracy)
    assert values["recall"] == pytest.approx(recall)
    assert values["yes_ratio"] == pytest.approx(yes_ratio)
    assert values["unparsed_rate"] == pytest.approx(2 / 6)


def test_disagreements_are_counted_and_placed():
    answers = [row[0] for row in RELEASED]
    found = disagreements(answers, ["yes"] * len(answers))
    assert found.n == 13
    assert found.counts["official"] == {"yes": 10, "no": 3, "unparsed": 0}
    assert found.counts["lmms-eval"] == {"yes": 1, "no": 2, "unparsed": 10}
    assert found.items == tuple(range(1, 13)), "all but the plain Yes"
    assert disagreements(["Yes", "no"], ["yes", "no"]).items == ()


def test_never_yes_leaves_precision_undefined_and_nothing_crashes():
    values = {k: r.value for k, r in tally(["No."] * 2, ["No."] * 2, parser="official").items()}
    assert values["accuracy"] == 1
    assert values["false_yes_rate"] == 0
    assert all(math.isnan(values[k]) for k in ("precision", "recall", "f1"))
    for parser in PARSERS:
        assert all(math.isnan(r.value) for r in tally([], [], parser=parser).values())


def test_another_language_and_nothing_at_all_are_unparsed_not_yes():
    answers = ["Sí, hay un perro.", "Да", "", "   "]
    assert tally(answers, ["yes"] * 4, parser="strict")["unparsed_rate"].value == 1


def test_refusals():
    assert set(get_args(Parser)) == set(PARSERS)
    with pytest.raises(ConfigError, match="strict"):
        parse("Yes", "lenient")
    with pytest.raises(ConfigError, match="truth|true answer"):
        parse("Yes", "vcd")
    with pytest.raises(DataError, match="true answer"):
        read_truth("red")
    with pytest.raises(DataError, match="2 answers"):
        tally(["Yes", "No"], ["Yes"], parser="strict")
