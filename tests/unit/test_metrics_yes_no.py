"""Yes/no parsing, row for row as METHODS.md 2.1 has it, and the counts."""

import math

import pytest

from sightline.errors import ConfigError, DataError
from sightline.metrics.yes_no import parse, read_truth, tally

PARSED = [
    # answer, official POPE (METHODS.md 2.1), strict
    ("Yes", "yes", "yes"),
    ("NO", "yes", "no"),
    ("No.", "no", "no"),
    ("Yes, there is a dog.", "yes", "yes"),
    ("There is a dog in the image.", "yes", "yes"),
    ("There isn't a dog.", "yes", "no"),
    ("There is not a dog.", "no", "no"),
    ("Yes. There is no cat though.", "yes", "yes"),
    ("It is a cat. No dog.", "yes", "unparsed"),
    ("I don't know", "yes", "unparsed"),
    ("Yes, not only one", "no", "yes"),
    ("\nNo", "yes", "no"),
    ("", "yes", "unparsed"),
    # beyond the table
    ("No, no dog here.", "no", "no"),
    ("yes and no", "no", "unparsed"),
    ("Yes/no", "yes", "unparsed"),
    ("**Yes**", "yes", "yes"),
    ("Nobody is here", "yes", "unparsed"),
    ("No idea.", "no", "unparsed"),
    ("There's no dog", "no", "no"),
    ("There are no dogs.", "no", "no"),
    ("There is a cat but no dog.", "no", "unparsed"),
    ("Ja, da ist ein Hund.", "yes", "unparsed"),
]


@pytest.mark.parametrize(("answer", "official", "strict"), PARSED)
def test_parsers(answer, official, strict):
    assert parse(answer, "official") == official
    assert parse(answer, "strict") == strict


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


def test_never_yes_leaves_precision_undefined_and_nothing_crashes():
    values = {k: r.value for k, r in tally(["No."] * 2, ["No."] * 2, parser="official").items()}
    assert values["accuracy"] == 1
    assert values["false_yes_rate"] == 0
    assert all(math.isnan(values[k]) for k in ("precision", "recall", "f1"))
    assert all(math.isnan(r.value) for r in tally([], [], parser="strict").values())


def test_refusals():
    with pytest.raises(ConfigError, match="strict"):
        parse("Yes", "lenient")
    with pytest.raises(DataError, match="true answer"):
        read_truth("red")
    with pytest.raises(DataError, match="2 answers"):
        tally(["Yes", "No"], ["Yes"], parser="strict")
