"""Mining conditions, judges, caption pairs, filters and wrong images, all by hand."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from sightline.errors import ConfigError, DataError
from sightline.metrics.objects import Lexicon
from sightline.preference import captions, conditions, filters, judges, wrong_image
from sightline.preference.conditions import Attempt
from sightline.preference.judges import Verdict
from sightline.records import Example, PreferencePair

LEXICON = Lexicon({"dog": "dog", "puppy": "dog", "cat": "cat", "couch": "couch", "sofa": "couch"})


def example(kind="yes_no", answer="Yes.", objects=("dog", "couch"), **more) -> Example:
    return Example("e", "i", "/i.png", "q?", kind, answer=answer, objects=objects, **more)


def attempt(text: str, right: bool = True, **more) -> Attempt:
    return Attempt(text, Verdict(right, float(right)), **more)


# --- conditions ---------------------------------------------------------------------------


@pytest.mark.parametrize("rights", list(itertools.product([True, False], repeat=3)))
def test_every_rule_on_every_combination(rights):
    a, b, c = (attempt(f"{name} {right}", right) for name, right in zip("abc", rights, strict=True))
    attempts = {"with_context": a, "wrong_image": b, "image_alone": c}
    right_a, right_b, right_c = rights
    expected = {
        "cm": right_a and not right_b,
        "oa1": right_a and not right_c,
        "oa2": right_c and not right_a,
    }
    for rule, is_pair in expected.items():
        finding = conditions.apply(rule, attempts)
        assert (finding.outcome == "pair") == is_pair
    assert conditions.apply("cm", attempts).chosen == a.text
    assert conditions.apply("cm", attempts).rejected == b.text
    assert conditions.apply("oa2", attempts).chosen == c.text
    assert conditions.apply("oa2", attempts).rejected == a.text


@pytest.mark.parametrize(
    ("chosen", "rejected", "outcome"),
    [
        (attempt("Yes."), attempt("Yes, a dog."), "both_right"),
        (attempt("No.", False), attempt("Maybe.", False), "both_wrong"),
        (attempt("No.", False), attempt("Yes."), "reversed"),
        (attempt("Yes. "), attempt("Yes."), "identical"),
        (attempt("Yes."), attempt(" ", False), "empty"),
        (attempt("Yes."), attempt("No no no", False, finished=False), "unfinished"),
    ],
)
def test_why_there_is_no_pair(chosen, rejected, outcome):
    attempts = {"with_context": chosen, "wrong_image": rejected}
    assert conditions.apply("cm", attempts).outcome == outcome


def test_forms_of_a_pair():
    assert conditions.forms("both", has_context=True) == ("with_context", "without_context")
    assert conditions.forms("with_context", has_context=True) == ("with_context",)
    assert conditions.forms("without_context", has_context=True) == ("without_context",)
    assert conditions.forms("both", has_context=False) == ("without_context",)


# --- judges -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "truth", "answer", "right"),
    [
        ("yes_no", "Yes.", "yes", True),
        ("yes_no", "No.", "NO!", True),
        ("yes_no", "No.", "There isn't a dog.", True),
        ("yes_no", "No.", "I don't know", False),
        ("yes_no", "Yes.", "Yes and no.", False),
        ("yes_no", "No.", "", False),
        ("yes_no", "Yes.", "\n\t", False),
        ("relation", "Yes.", "Yes, it is left of it.", True),
        ("count", "Two.", "2", True),
        ("count", "Two.", "twenty-two", False),
        ("color", "Red.", "RED", True),
        ("color", "Red.", "infrared", False),
        ("color", "Red.", "Not red.", False),
        ("open", "a dog", "The dog!", True),
        ("caption", "", "A puppy on a sofa.", True),
        ("caption", "", "A dog and a cat.", False),
        ("caption", "", "Nothing to see.", False),
        ("caption", "", "\u202e\x00", False),
    ],
)
def test_auto_judge(kind, truth, answer, right):
    judge = judges.make("auto", LEXICON)
    assert judges.check(judge, answer, example(kind, truth)).right is right


def test_caption_verdict_counts_what_is_invented_and_what_is_named():
    verdict = judges.make("caption", LEXICON)("A cat, cats and a puppy.", example("caption", ""))
    assert verdict.score == -2
    assert verdict.invented == ("cat", "cat")
    assert verdict.recall == 0.5
    assert verdict.words == 6


def test_exact_is_exact_and_normalized_is_not():
    assert judges.make("normalized", LEXICON)("yes", example()).right
    assert not judges.make("exact", LEXICON)("yes", example()).right
    assert judges.make("exact", LEXICON)(" Yes.\n", example()).right


def always_right(answer: str, asked: Example) -> Verdict:
    return Verdict(True, 1.0)


def test_own_judge_by_module_and_function(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "my_judges", sys.modules[__name__])
    assert judges.make("my_judges:always_right", LEXICON)("whatever", example()).right
    for name, message in [
        ("llm", "a judge among auto"),
        ("no_such_module_here:f", "can be imported"),
        ("json:no_such", "a function 'no_such'"),
    ]:
        with pytest.raises(ConfigError, match=message):
            judges.make(name, LEXICON)


def test_questions_without_truth_are_refused():
    judge = judges.make("auto", LEXICON)
    with pytest.raises(DataError, match="the true `answer`"):
        judges.check(judge, "Yes.", example(answer=" "))
    with pytest.raises(DataError, match="`objects` of e"):
        judges.check(judge, "A dog.", example("caption", "", objects=()))


# --- captions -----------------------------------------------------------------------------


def caption(text: str) -> Attempt:
    verdict = judges.make("caption", LEXICON)(text, example("caption", ""))
    return Attempt(text, verdict)


GOOD, BAD = caption("A dog on a couch."), caption("A dog, a cat and another cat.")
TERSE = caption("A couch.")


def test_chosen_invents_less_and_names_as_much():
    (finding,) = captions.find([BAD, GOOD, TERSE, GOOD])
    assert (finding.outcome, finding.chosen, finding.rejected) == ("pair", GOOD.text, BAD.text)


def test_saying_less_is_no_virtue():
    rich = caption("A dog on a couch, a cat.")
    assert captions.find([TERSE, rich], max_length_ratio=9)[0].outcome == "recall"
    assert captions.find([TERSE, rich], max_length_ratio=2)[0].outcome == "length"


@pytest.mark.parametrize(
    ("samples", "outcome"),
    [
        ([GOOD, GOOD], "identical"),
        ([GOOD, caption("The couch and the dog.")], "both_right"),
        ([BAD, caption("A dog, the cat and the other cat.")], "both_wrong"),
        ([GOOD, replace(BAD, finished=False)], "unfinished"),
        ([caption(""), caption(" ")], "identical"),
    ],
)
def test_why_there_is_no_caption_pair(samples, outcome):
    assert [f.outcome for f in captions.find(samples)] == [outcome]


def test_several_pairs_share_no_sample_and_do_not_depend_on_order():
    samples = [GOOD, BAD, caption("The dog, the couch."), caption("Dogs and one cat.")]
    found = captions.find(samples, count=2)
    assert len({text for f in found for text in (f.chosen, f.rejected)}) == 4
    assert captions.find(samples[::-1], count=2) == found


# --- filters ------------------------------------------------------------------------------


def pair(chosen: str, rejected: str, condition: str = "caption", **more) -> PreferencePair:
    fields = {"pair_id": f"{chosen}|{rejected}", "image_id": "i", **more}
    values = {"example_id": "e", "image_uri": "", "question": "q", "context": "", **fields}
    return PreferencePair(chosen=chosen, rejected=rejected, condition=condition, **values)


def test_filters_count_by_reason():
    pairs = [
        pair("a b c", "a b d"),
        pair("a b c", "a b d", condition="caption", context="other prompt"),
        pair("a b c", "a b d"),
        pair("x", "x "),
        pair("", "y"),
        pair("a", "a b c d"),
        pair("Yes.", "Yes, there is a dog in it.", condition="cm"),
    ]
    selection = filters.select(pairs)
    assert list(selection.pairs) == [pairs[0], pairs[1], pairs[6]]
    assert selection.dropped == {"repeated": 1, "identical": 1, "empty": 1, "length": 1}


def test_balance_drops_the_most_lopsided_until_lengths_agree():
    chosen_N = np.array([5, 6, 8, 10, 10, 10])
    rejected_N = np.array([10, 10, 10, 10, 10, 10])
    assert filters.balanced(chosen_N, rejected_N, tolerance=0.0).tolist() == [False] * 3 + [True] * 3
    assert filters.balanced(chosen_N, rejected_N, tolerance=0.1).tolist() == [False, False] + [True] * 4
    assert filters.balanced(chosen_N, rejected_N, min_kept=0.9).all()
    assert filters.balanced(rejected_N, chosen_N, tolerance=0.0).sum() == 3, "either side may be the shorter"
    assert filters.balanced(np.zeros(0), np.zeros(0)).shape == (0,)


def test_yes_may_not_be_preferred_more_often_than_its_share():
    yes = [pair("Yes.", "No.", "cm", pair_id=f"y{i}", image_id=f"y{i}") for i in range(9)]
    no = [pair("No.", "Yes, a dog.", "oa2", pair_id=f"n{i}", image_id=f"n{i}") for i in range(3)]
    other = [pair("Red.", "Yes.", "cm", pair_id="o")]
    half = filters.select([*yes, *no, *other], max_yes_share=0.5)
    assert half.dropped == {"yes_share": 6}
    assert {p.pair_id for p in (*no, *other)} <= {p.pair_id for p in half.pairs}
    again = filters.select([*other, *no, *yes[::-1]], max_yes_share=0.5)
    assert {p.pair_id for p in again.pairs} == {p.pair_id for p in half.pairs}, "whatever the order"
    assert filters.select([*yes, *no], max_yes_share=0.75).dropped == {}
    assert filters.select([*yes, *no], max_yes_share=1.0).dropped == {}
    assert len(filters.select([*yes, *no], max_yes_share=0.0).pairs) == 3


# --- wrong images -------------------------------------------------------------------------


def images(n: int) -> list[Example]:
    return [Example(f"e{i}", f"i{i}", f"/{i}.png", "q", "open") for i in range(n)]


@pytest.mark.parametrize("n", [2, 3, 10, 101])
def test_wrong_images_are_others_and_depend_on_seed_and_id_alone(n):
    chosen = wrong_image.assign(images(n), seed=1)
    for image_id, others in chosen.items():
        names = [other.image_id for other in others]
        assert image_id not in names
        assert len(names) == len(set(names)) == min(3, n - 1)
    assert wrong_image.assign(images(n)[::-1], seed=1) == chosen
    if n > 10:
        assert wrong_image.assign(images(n), seed=2) != chosen
        assert len({others[0].image_id for others in chosen.values()}) > n / 3


def test_a_copy_of_the_image_is_not_a_wrong_image():
    first, copy, other = (replace(e, sha256=s) for e, s in zip(images(3), "aab", strict=True))
    assert [w.image_id for w in wrong_image.assign([first, copy, other], seed=0)["i0"]] == ["i2"]
    with pytest.raises(DataError, match="at least two different images"):
        wrong_image.assign([first, copy], seed=0)
