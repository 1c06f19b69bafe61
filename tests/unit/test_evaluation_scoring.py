"""Tables, comparisons and the gate on hand-made predictions."""

import math
from dataclasses import replace

import pytest

from sightline.config.evaluation import EvaluationConfig, GateConfig
from sightline.errors import ConfigError, DataError
from sightline.evaluation.compare import compare
from sightline.evaluation.gate import check_measurable, decide
from sightline.evaluation.predictions import Prediction
from sightline.evaluation.scoring import METRICS, benchmark_label, score
from sightline.records import Example

LEXICON = {"dog": "dog", "cat": "cat", "traffic light": "traffic light"}


def asked(number, answer, *, kind="yes_no", split="pope_adversarial", truth="No.", objects=(), image=None):
    example = Example(
        example_id=f"{split}/{number:04d}",
        image_id=f"image-{number // 2 if image is None else image}",
        image_uri=f"/images/{number}.png",
        question="Is there a dog?",
        kind=kind,
        answer=truth,
        objects=objects,
        split=split,
    )
    return Prediction(example, answer)


def pope(false_yes, count=100):
    """`count` no-questions, the first `false_yes` answered yes, and as many right yes-questions."""
    wrong = [asked(i, "Yes." if i < false_yes else "No.") for i in range(count)]
    return wrong + [asked(count + i, "Yes.", truth="Yes.") for i in range(count)]


def captions(invented, count=40):
    return [
        asked(
            i,
            "A dog and a cat." if i < invented else "A dog sits there.",
            kind="caption",
            split="caption",
            truth="",
            objects=("dog",),
        )
        for i in range(count)
    ]


def row(rows, benchmark, metric):
    return next(r for r in rows if (r["benchmark"], r["metric"]) == (benchmark, metric))


def test_predictions_survive_flat_columns():
    prediction = replace(captions(1)[0], finished=False)
    assert Prediction.from_row(prediction.to_row()) == prediction


def test_each_kind_has_its_scores():
    predictions = [
        *pope(20),
        *captions(10),
        asked(0, "Red.", kind="color", split="color", truth="Red."),
        asked(1, "It is blue.", kind="color", split="color", truth="Red."),
        asked(0, "No.", kind="relation", split="relation", truth="Yes."),
        asked(0, "3", kind="count", split="", truth="Three."),
    ]
    rows = score(predictions, lexicon=LEXICON)
    assert row(rows, "pope_adversarial", "false_yes_rate")["value"] == pytest.approx(0.2)
    assert row(rows, "pope_adversarial", "accuracy")["value"] == pytest.approx(0.9)
    assert row(rows, "caption", "chair_s")["value"] == pytest.approx(0.25)
    assert row(rows, "color", "accuracy")["value"] == pytest.approx(0.5)
    assert row(rows, "relation", "accuracy")["value"] == 0
    assert row(rows, "count", "accuracy") == {
        "benchmark": "count",
        "metric": "accuracy",
        "value": 1.0,
        "low": pytest.approx(math.nan, nan_ok=True),
        "high": pytest.approx(math.nan, nan_ok=True),
        "n": 1,
    }
    assert {r["metric"] for r in rows} <= METRICS.keys()
    assert benchmark_label("pope_random") == "POPE random"
    assert score([], lexicon=LEXICON) == []


def test_comparison_is_paired_and_clustered():
    rows = compare(pope(30), pope(15), lexicon=LEXICON)
    found = row(rows, "pope_adversarial", "false_yes_rate")
    assert found["before"] == pytest.approx(0.30)
    assert found["after"] == pytest.approx(0.15)
    assert found["delta"] == pytest.approx(-0.15)
    assert found["relative"] == pytest.approx(-0.5)
    assert found["ci_low"] < -0.15 < found["ci_high"] < 0
    assert found["n"] == 100
    # An order of rows is no property of a comparison.
    assert compare(pope(30)[::-1], pope(15), lexicon=LEXICON) == rows


def test_equal_answers_differ_by_exactly_nothing():
    found = row(compare(captions(10), captions(10), lexicon=LEXICON), "caption", "chair_s")
    assert (found["delta"], found["ci_low"], found["ci_high"]) == (0, 0, 0)


def test_other_items_are_refused_and_named():
    before = pope(10)
    with pytest.raises(DataError, match="pope_adversarial/0199"):
        compare(before, before[:-1], lexicon=LEXICON)
    with pytest.raises(DataError, match="once"):
        compare(before, [*before, before[0]], lexicon=LEXICON)
    other = replace(before[0], example=replace(before[0].example, question="Is there a cat?"))
    with pytest.raises(DataError, match="same question"):
        compare(before, [other, *before[1:]], lexicon=LEXICON)


def test_mixed_kinds_are_refused():
    with pytest.raises(DataError, match="one kind"):
        score([asked(0, "No."), asked(1, "Red.", kind="color", truth="Red.")], lexicon=LEXICON)
    with pytest.raises(DataError, match="more than once"):
        score([asked(0, "No."), asked(0, "No.")], lexicon=LEXICON)


def test_what_failed_on_one_side_leaves_both():
    before, after = pope(10), pope(10)
    after[0] = replace(after[0], answer="", error="unreadable image")
    found = row(compare(before, after, lexicon=LEXICON), "pope_adversarial", "false_yes_rate")
    assert found["n"] == 99
    assert found["before"] == found["after"]


def test_gate_promotes_when_hallucination_fell_and_says_so():
    decision = decide(
        compare(pope(40) + captions(20), pope(10) + captions(5), lexicon=LEXICON),
    )
    assert decision.promote
    assert decision.decided_by == "every rule"
    assert "POPE adversarial false yes fell" in decision.sentence
    assert "Captions CHAIR_s fell" in decision.sentence
    assert decision.to_json()["rules"][0]["name"] == "must_fall pope_adversarial.false_yes_rate"


def test_gate_wants_the_interval_not_the_value():
    rows = compare(pope(11) + captions(20), pope(10) + captions(5), lexicon=LEXICON)
    decision = decide(rows)
    assert not decision.promote
    assert decision.decided_by == "must_fall pope_adversarial.false_yes_rate"
    assert "did not surely fall" in decision.sentence
    assert decide(rows, GateConfig(need="any")).promote


def test_gate_keeps_the_margins():
    before = [*pope(40), *captions(20)]
    silent = [*pope(10), *[replace(p, answer="A room.") for p in captions(5)]]
    decision = decide(compare(before, silent, lexicon=LEXICON))
    assert not decision.promote
    failed = [r.name for r in decision.rules if not r.passed]
    assert failed == ["margin caption.chair_i", "margin caption.recall", "margin caption.length"]
    assert decision.decided_by == failed[0]
    assert "became undefined" in decision.sentence
    assert "2 other rules failed too" in decision.sentence


@pytest.mark.parametrize(("loss", "promoted"), [(2, True), (3, False)])
def test_a_margin_includes_its_own_value(loss, promoted):
    colors = [asked(i, "Red.", kind="color", split="color", truth="Red.") for i in range(100)]
    worse = [replace(p, answer="Blue.") for p in colors[:loss]] + colors[loss:]
    rows = compare([*pope(40), *colors], [*pope(10), *worse], lexicon=LEXICON)
    settings = GateConfig(must_fall=("pope_adversarial.false_yes_rate",))
    assert decide(rows, settings).promote is promoted


@pytest.mark.parametrize(("right", "promoted"), [(50, True), (59, True), (60, False), (38, True)])
def test_what_was_guessed_before_has_nothing_to_lose(right, promoted):
    """100 yes/no answers: up to 59 right can be a coin's (5% level); all are wrong afterwards."""
    before = [asked(i, "Yes." if i < right else "No.", split="relation", truth="Yes.") for i in range(100)]
    after = [replace(p, answer="No.") for p in before]
    rows = compare([*pope(40), *before], [*pope(10), *after], lexicon=LEXICON)
    decision = decide(rows, GateConfig(must_fall=("pope_adversarial.false_yes_rate",)))
    assert decision.promote is promoted


def test_gate_refuses_to_judge_what_nobody_measured():
    rows = compare(pope(20), pope(10), lexicon=LEXICON)
    with pytest.raises(ConfigError, match="caption.chair_s"):
        decide(rows)
    with pytest.raises(ConfigError, match="must_fall"):
        decide([])
    undefined = [r | {"ci_low": None, "ci_high": None, "delta": None} for r in rows]
    decision = decide(undefined, GateConfig(must_fall=("pope_adversarial.false_yes_rate",)))
    assert not decision.promote


def test_what_cannot_be_measured_is_refused_before_any_work():
    examples = [p.example for p in (*pope(1), *captions(1))]
    check_measurable(examples, lexicon=LEXICON, settings=EvaluationConfig())
    with pytest.raises(ConfigError, match="caption.chair_s"):
        check_measurable(examples[:3], lexicon=LEXICON, settings=EvaluationConfig())
    with pytest.raises(DataError, match="yes or no"):
        check_measurable(
            [replace(examples[0], answer="Perhaps.")], lexicon=LEXICON, settings=EvaluationConfig()
        )


def test_settings_reach_the_bootstrap():
    few = EvaluationConfig(bootstrap=10)
    assert compare(pope(30), pope(15), lexicon=LEXICON, settings=few) != compare(
        pope(30), pope(15), lexicon=LEXICON
    )
