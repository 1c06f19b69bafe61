"""Published benchmarks in the matrix: each by its own scorer, on a few examples worked out by hand."""

from __future__ import annotations

import json

import pytest

from sightline.config.benchmark import BenchmarkConfig
from sightline.errors import ConfigError
from sightline.evaluation.judged import Judged
from sightline.evaluation.predictions import Prediction
from sightline.evaluation.published import Published
from sightline.evaluation.scoring import METRICS, tally
from sightline.records import Example


def ask(source, kind, answers, **more):
    """One prediction an answer; `more` holds a value for each, or one for all."""
    rows = []
    for i, answer in enumerate(answers):
        values = {name: v[i] if isinstance(v, list) else v for name, v in more.items()}
        shown = {
            "image_id": str(i),
            "image_uri": f"/none/{i}.jpg",
            "source": source,
            "split": f"{source}_{kind}",
        }
        rows.append(Prediction(Example(f"{source}/{i}", question="?", kind=kind, **shown, **values), answer))
    return rows


def values(rows, published=None):
    [counts] = tally(
        rows, lexicon={"dog": "dog"}, parser="strict", published=published or Published()
    ).values()
    return {name: ratio.value for name, ratio in counts.ratios.items()}


def test_ambers_questions_are_of_the_class_no():
    rows = ask(
        "amber",
        "yes_no",
        ["No", "Yes", "no", "Yes"],
        answer=["no", "no", "no", "yes"],
        meta={"type": "discriminative-hallucination"},
    )
    found = values(rows)
    # Said No to the letter: once, rightly; three were No. "no" is unreadable, hence wrong.
    assert (found["accuracy"], found["no_precision"], found["unparsed_rate"]) == (0.5, 1.0, 0.25)
    assert found["no_recall"] == pytest.approx(1 / 3)


def test_ambers_descriptions_need_its_tables():
    rows = ask("amber", "caption", ["A dog"], objects=("dog",), meta={"hallu": ["cat"]})
    with pytest.raises(ConfigError, match="type: amber"):
        values(rows)


def test_chair_on_coco_knows_the_references():
    rows = ask(
        "coco",
        "caption",
        ["A dog and a cat.", "A cat."],
        objects=("dog",),
        meta={"references": ["a cat sleeps"]},
    )
    published = Published()
    found = values(rows, published)
    assert (found["chair_s"], found["recall"]) == (0.0, 0.75)
    assert "lemmatiser" in published.notes[0]


def test_accepted_answers_and_ranges():
    accepted = [{"texts": ["Paris"]}, {"texts": ["12"], "low": 10.0, "high": 14.0}]
    rows = ask("infoseek", "open", ["It is Paris", "13"], meta=[{"accepted": a} for a in accepted])
    assert values(rows) == {"exact": 0.0, "relaxed": 1.0, "empty_rate": 0.0}


def test_medical_choices_and_labels():
    rows = ask(
        "medhall",
        "open",
        ["A", "C"],
        meta=[{"gold": "A", "unsuitable": False}, {"gold": "C", "unsuitable": True}],
    )
    assert values(rows)["caught"] == 1.0
    dirty = ask("mmed_rag", "yes_no", ["Yes.", "No."], answer=["- yes", "yes"], meta={"restricted": True})
    found = values(dirty)
    assert (found["accuracy"], found["dirty_label_rate"]) == (0.5, 0.5)


def test_without_a_judge_mmhal_has_no_score():
    published = Published()
    rows = ask("mmhal", "open", ["", "Blue"], answer="Red")
    assert values(rows, published) == {"empty_rate": 0.5}
    assert published.remarks() == ["MMHal: no judge was named (`judge`), so answers are kept and not rated"]
    assert published.wrong_spans(rows[1]) == []


def judged(replies):
    """A judge that says what stands beside the first word that its prompt's last lines hold."""
    asked = []

    def judge(prompt):
        asked.append(prompt)
        return next(said for word, said in replies.items() if word in prompt)

    return Published(nltk_data="/nowhere").judged(Judged("a:b", judge, {})), asked


def test_mmhal_is_rated_by_the_judge_and_nonsense_is_named():
    published, asked = judged({"Red": "Rating: 6", "Blue": "Rating: 1", "Green": None})
    rows = ask("mmhal", "open", ["Red", "Blue", "Green"], answer="?", meta={"contents": ["Ball"]})
    for _ in range(2):
        found = values(rows, published)
        assert found == pytest.approx(
            {"rating": 7 / 3, "hallucination_rate": 2 / 3, "unread_replies": 1 / 3, "empty_rate": 0.0}
        )
    assert [published.wrong_spans(row) for row in rows] == [[], [[0, 4]], [[0, 5]]]
    assert len(asked) == 3
    assert "Image contents: Ball" in asked[0]
    assert published.remarks() == [
        "MMHal: judged by a:b; replies about 1 questions could not be read (mmhal/2)"
    ]


def test_claims_of_captions_are_judged_by_their_references():
    published, asked = judged({"Claim: A dog": "No.", "Claim: A cat": "Yes.", "Claim: A bird": "Perhaps"})
    same = {"objects": ("dog",), "meta": {"references": ["a dog sleeps"]}}
    rows = ask("coco", "caption", ["A dog. A cat.", "A bird.", "A dog."], **same)
    found = values(rows, published)
    wanted = {
        "hallucination_rate": 1 / 2,
        "claim_error_rate": 1 / 3,
        "unread_replies": 1 / 4,
        "claims": 4 / 3,
    }
    assert {name: found[name] for name in wanted} == pytest.approx(wanted)
    assert {"chair_s", "recall"} <= found.keys()
    assert any(line.endswith("(coco/1)") for line in published.remarks())
    asked.clear()
    secret = same | {"meta": same["meta"] | {"restricted": True}}
    assert "claims" not in values(ask("flickr8k", "caption", ["A dog."], **secret), published)
    assert not asked, "data under a use agreement goes to no judge"


def test_medical_answers_are_read_by_the_chosen_parser():
    rows = ask("medhall", "yes_no", ["Definitely.", "There is no mass."], answer=["yes", "no"])
    published = Published()
    unparsed = {
        parser: tally(rows, lexicon={"dog": "dog"}, parser=parser, published=published)["medhall_yes_no"]
        .ratios["unparsed_rate"]
        .value
        for parser in ("strict", "official")
    }
    assert unparsed["official"] == 0.0 < unparsed["strict"]


def test_the_rest_is_scored_by_its_kind():
    assert values(ask("mine", "color", ["red", "blue"], answer="Red."))["accuracy"] == 0.5


def test_settings_name_the_tables(tmp_path):
    (tmp_path / "relation.json").write_text(json.dumps({"dog": ["puppy"]}))
    (tmp_path / "safe_words.txt").write_text("image\n")
    config = BenchmarkConfig.model_validate(
        {"benchmarks": {"amber": {"type": "amber", "path": str(tmp_path)}}}
    )
    assert Published.of(config).amber == str(tmp_path)
    assert Published.of(BenchmarkConfig()).amber is None


def test_every_score_has_a_way_to_be_read():
    for name in ("chair", "hal", "cog", "cover", "no_f1", "exact", "relaxed", "caught", "bleu"):
        assert METRICS[name].better


def test_marks_are_where_the_scorer_sees_something_wrong(tmp_path):
    (tmp_path / "relation.json").write_text(json.dumps({"dog": ["puppy"], "cat": []}))
    (tmp_path / "safe_words.txt").write_text("image\n")
    published = Published(amber=str(tmp_path), nltk_data="/nowhere")
    [described] = ask("amber", "caption", ["Two cats, a puppy."], objects=("dog",), meta={"hallu": ["cat"]})
    assert published.wrong_spans(described) == [[4, 8]]
    references = {"references": ["a cat sleeps"]}
    [caption] = ask("coco", "caption", ["A dog, a cat, two birds."], objects=("dog",), meta=references)
    assert published.wrong_spans(caption) == [[18, 23]]
    near, far = ask(
        "infoseek", "open", ["13", "99"], meta={"accepted": {"texts": [], "low": 10.0, "high": 14.0}}
    )
    assert published.wrong_spans(near) == []
    assert published.wrong_spans(far) == [[0, 2]]
    assert published.wrong_spans(ask("mine", "color", ["red"], answer="Red.")[0]) is None


def test_reports_and_medical_counts_have_names():
    [report] = ask("mmed_rag", "open", ["clear lungs today now"], answer="clear lungs today now")
    assert values([report])["rouge_l"] == pytest.approx(1)
    labels = ask("mmed_rag", "yes_no", ["Yes"], answer="The summary does not say.")
    assert set(values(labels)) <= set(METRICS)
