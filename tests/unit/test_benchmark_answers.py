"""Answers on disk: whole, with provenance; read again, nothing is dropped without being named."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from sightline.errors import DataError
from sightline.evaluation.answers import NAMED, Answered, match_answers, write_answers
from sightline.evaluation.fairness import Conditions, check_fair, differences, hash_items, hash_prompt
from sightline.evaluation.run_folder import RunFolder
from tests.unit.fake_answers import answers, conditions, lines, questions

EXAMPLES = questions(4)
TOLD = conditions("greedy", EXAMPLES)


def match(given, examples=EXAMPLES, told=TOLD):
    return match_answers(lines(told, given), told, examples)


def test_written_answers_come_back_with_their_provenance(tmp_path):
    given = [
        *answers(EXAMPLES[:-1], wrong=1),
        Answered("c3", hash_prompt(EXAMPLES[-1]), "", error="no image"),
    ]
    write_answers(RunFolder.at(tmp_path), "greedy/tiny", TOLD, given)
    told = Conditions.from_json(json.loads((tmp_path / "greedy/tiny.json").read_text()))
    text = (tmp_path / "greedy/tiny.jsonl").read_text()
    found = match_answers(text, told, EXAMPLES)
    assert told == TOLD
    assert [p.answer for p in found.predictions[:2]] == ["Yes.", "A dog and a cat"]
    assert found.predictions[-1].error == "no image"
    assert (found.account.asked, found.account.scored, found.account.counts) == (8, 7, {"failed": 1})
    assert found.conditions.numerics == ("cpu float32 sdpa",)
    provenance = {"row", "mitigations", "model", "seed", "software", "conditions", "prompt"}
    assert all(provenance <= json.loads(line).keys() for line in text.splitlines())
    for secret in ("Is there a cat?", "Describe.", "/none/"):
        assert secret not in text, "questions and images stay in the benchmark"


def test_missing_doubled_and_foreign_ids_are_counted_and_named():
    given = answers(EXAMPLES, wrong=0)
    other = replace(given[1], answer="A cat")
    foreign = replace(given[0], example_id="elsewhere")
    found = match([*given[:6], given[0], other, foreign])
    assert found.account.counts == {"missing": 2, "doubled": 2, "foreign": 1}
    assert found.account.named["missing"] == ("p3", "c3")
    assert found.account.named["foreign"] == ("elsewhere",)
    assert found.account.scored == 5
    # Twice the same answer is one answer; two different ones are none.
    assert found.predictions[0].answer == "No."
    assert "differently" in found.predictions[1].error


def test_answers_to_other_prompts_or_under_other_conditions_are_no_answers():
    given = answers(EXAMPLES, wrong=0)
    text = lines(TOLD, [replace(given[0], prompt="0" * 16), *given[1:4]])
    text += lines(replace(TOLD, seed=1), given[4:5]) + "no json\n[1]\n\n" + lines(TOLD, given[5:])
    found = match_answers(text, TOLD, EXAMPLES)
    assert found.account.counts == {"other prompt": 1, "other conditions": 1, "unreadable": 2}
    assert found.account.named["unreadable"] == ("line 6", "line 7")
    assert found.predictions[0].error == "no usable answer: other prompt"


def test_empty_and_cut_off_answers_are_scored_and_counted():
    given = answers(EXAMPLES, wrong=0)
    found = match([replace(given[0], answer=" "), replace(given[1], finished=False), *given[2:]])
    assert found.account.counts == {"empty": 1, "cut off": 1}
    assert found.account.scored == 8


def test_an_account_names_a_few_and_counts_all():
    examples = questions(40)
    found = match(answers(examples, wrong=0)[:2], examples, conditions("greedy", examples))
    assert found.account.counts["missing"] == 78
    assert len(found.account.named["missing"]) == NAMED


@pytest.mark.parametrize("text", ["", "{}\n", lines(TOLD, [Answered("x", "y", "Yes.")])])
def test_a_file_of_another_benchmark_is_refused(text):
    with pytest.raises(DataError, match="answers to this benchmark"):
        match_answers(text, TOLD, EXAMPLES)


def test_conditions_of_another_form_are_refused():
    values = TOLD.to_json()
    with pytest.raises(DataError, match="seed"):
        Conditions.from_json({k: v for k, v in values.items() if k != "seed"})


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"items": "0"}, "items"),
        ({"model": "n" * 32}, "model"),
        ({"max_new_tokens": 9}, "max_new_tokens"),
        ({"short_answer_tokens": 9}, "short_answer_tokens"),
        ({"batch_size": 9}, "batch_size"),
        ({"seed": 9}, "seed: 0 against 9"),
        ({"software": ("torch 2.12.0",)}, r"torch 2\.13\.0 against torch 2\.12\.0"),
        ({"numerics": ("cpu float32 eager",)}, "cpu float32 sdpa against cpu float32 eager"),
        ({"numerics": ("cpu float32 eager", "cpu float32 sdpa")}, "in one set of answers"),
    ],
)
def test_an_unfair_comparison_is_refused_with_its_reason(changes, named):
    greedy = replace(TOLD, numerics=("cpu float32 sdpa",))
    spin = replace(greedy, row="spin", mitigations="spin:k=0.8")
    check_fair(greedy, spin)
    assert differences(greedy, spin) == []
    with pytest.raises(DataError, match=named):
        check_fair(greedy, replace(spin, **changes))


def test_hashes_tell_prompts_apart():
    first = EXAMPLES[0]
    for change in (
        {"question": "Is there a dog?"},
        {"context": "A cat."},
        {"image_id": "x"},
        {"sha256": "1"},
    ):
        assert hash_prompt(replace(first, **change)) != hash_prompt(first)
    assert hash_prompt(replace(first, answer="Yes.")) == hash_prompt(first), (
        "a truth is no part of the prompt"
    )
    assert hash_items(EXAMPLES[::-1]) != hash_items(EXAMPLES)
