"""From answers to the report: scores, fair comparisons, costs; and a page that hides and breaks nothing."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

from sightline.config.benchmark import BenchmarkConfig
from sightline.errors import DataError
from sightline.evaluation.benchmark_page import render_html
from sightline.evaluation.benchmark_report import assemble, write_report
from sightline.evaluation.benchmark_table import markdown
from sightline.evaluation.matrix import check_scorable, measure
from sightline.evaluation.run_folder import RunFolder
from sightline.metrics.objects import Lexicon
from tests.unit.fake_answers import LEXICON, questions, side
from tests.unit.test_evaluation_report import EVIL, read

WORDS = Lexicon(LEXICON)
EXAMPLES = questions(40)
CONFIG = BenchmarkConfig.model_validate(
    {
        "rows": [
            {"name": "spin", "mitigations": ["spin:k=0.8"]},
            {"name": "vti", "mitigations": ["vti"]},
            {"name": "guard", "pending": "it is not built yet"},
        ],
        "benchmarks": {"tiny": {"type": "jsonl", "path": "/none/tiny.jsonl"}},
        "bootstrap": 200,
        "shown": 6,
    }
)
SIDES = [
    side("greedy", EXAMPLES, wrong=20),
    side("spin", EXAMPLES, wrong=4, ms=3.0),
    side("vti", EXAMPLES, wrong=21),
]


def find(rows, **keys):
    [row] = [r for r in rows if all(r[k] == v for k, v in keys.items())]
    return row


def report(sides=SIDES, config=CONFIG, examples=EXAMPLES, manifest=None):
    return assemble(config, manifest or {"name": "tiny"}, sides, {"tiny": examples}, WORDS)


def test_scores_and_paired_differences():
    found = measure(SIDES, CONFIG, WORDS)
    greedy = find(found["scores"], row="greedy", benchmark="pope_adversarial", metric="accuracy")
    assert (greedy["value"], greedy["n"]) == (0.5, 40)
    spin = find(found["comparisons"], row="spin", benchmark="pope_adversarial", metric="accuracy")
    assert (spin["before"], spin["after"], spin["n"]) == (0.5, 0.9, 40)
    assert spin["ci_low"] > 0
    # 16 answers became right and none wrong: 2 / 2^16; the larger p of the two tests counts.
    assert spin["p_mcnemar"] == pytest.approx(2 / 2**16)
    assert spin["p"] == max(spin["p_mcnemar"], spin["p_bootstrap"])
    assert spin["verdict"] == "better"
    invented = find(found["comparisons"], row="spin", metric="chair_s")
    assert (invented["delta"], invented["verdict"]) == (pytest.approx(-0.4), "better")
    assert math.isnan(invented["p_mcnemar"])
    assert find(found["comparisons"], row="vti", metric="chair_s")["verdict"] == "unclear"
    assert find(found["comparisons"], row="spin", metric="yes_ratio")["verdict"] == "neutral"


def test_the_correction_is_over_all_rows_of_one_score():
    for correction, factor in (("holm", 2), ("none", 1)):
        config = CONFIG.model_copy(update={"correction": correction})
        row = find(measure(SIDES, config, WORDS)["comparisons"], row="spin", metric="chair_s")
        assert row["family"] == 2
        assert row["p_adjusted"] == pytest.approx(min(1.0, factor * row["p"]))


def test_an_item_that_failed_leaves_both_sides():
    spin = SIDES[1].matched
    lost = replace(spin.predictions[0], answer="", error="no image")
    sides = [SIDES[0], replace(SIDES[1], matched=replace(spin, predictions=(lost, *spin.predictions[1:])))]
    found = measure(sides, CONFIG, WORDS)
    assert find(found["scores"], row="spin", metric="accuracy")["n"] == 39
    assert find(found["scores"], row="greedy", metric="accuracy")["n"] == 40
    assert find(found["comparisons"], row="spin", metric="accuracy")["n"] == 39


@pytest.mark.parametrize("change", [{"max_new_tokens": 9}, {"seed": 1}, {"items": "0"}, {"model": "x"}])
def test_other_conditions_are_not_compared(change):
    odd = side("vti", EXAMPLES, wrong=0, **change)
    found = measure([*SIDES[:2], odd], CONFIG, WORDS)
    assert {c["row"] for c in found["comparisons"]} == {"spin"}
    [refused] = found["refused"]
    assert refused["row"] == "vti"
    assert next(iter(change)) in refused["reasons"][0]
    assert "not compared" in render_html(report([*SIDES[:2], odd]))


def test_without_greedy_nothing_is_compared():
    found = measure(SIDES[1:], CONFIG, WORDS)
    assert not found["comparisons"]
    assert [r["reasons"] for r in found["refused"]] == [["greedy has not answered this benchmark"]] * 2


def test_costs_are_those_of_long_answers():
    found = measure(SIDES, CONFIG, WORDS)
    greedy, spin = (find(found["costs"], row=row) for row in ("greedy", "spin"))
    assert (greedy["on"], greedy["tokens"]) == ("long answers", 400)
    assert greedy["ms_per_token"] == pytest.approx(2.0)
    assert spin["ms_per_token"] == pytest.approx(3.0)
    assert greedy["passes_per_token"] == pytest.approx(1.5)
    assert greedy["peak_mib"] == 109.0


def test_what_cannot_be_scored_is_refused_before_any_work():
    check_scorable(EXAMPLES, WORDS)
    with pytest.raises(DataError, match="yes or no"):
        check_scorable([replace(EXAMPLES[0], answer="maybe")], WORDS)


def test_the_report_is_strict_json_and_renders_again(tmp_path):
    write_report(RunFolder.at(tmp_path), report())
    text = (tmp_path / "report.json").read_text(encoding="utf-8")
    found = json.loads(text, parse_constant=pytest.fail)
    assert found["headline"].startswith(
        "Captions with an invented object: 50.0% under greedy, 10.0% with spin."
    )
    assert render_html(found) == (tmp_path / "report.html").read_text(encoding="utf-8")
    assert (tmp_path / "methods.png").read_bytes().startswith(b"\x89PNG")
    assert [r["status"] for r in found["rows"]] == ["measured", "measured", "measured", "pending"]
    assert found["benchmarks"]["tiny"]["questions"] == 80


def test_the_page_needs_nothing_beside_it_and_balances():
    page = render_html(report())
    parsed = read(page)
    for tag, attributes in parsed.tags:
        for name in ("src", "href", "xlink:href"):
            assert attributes.get(name, "data:").startswith(("data:", "#")), (tag, attributes)
    text = " ".join(parsed.text)
    for expected in ("pending: it is not built yet", "spin:k=0.8", "Holm", "helped", "in the image"):
        assert expected.lower() in text.lower(), expected
    assert "color-scheme" in page
    assert "prefers-color-scheme: dark" in page
    assert "#1f2933" not in page.partition("<svg")[2], "figures take the page's colours"


def test_the_offending_words_are_marked_once_for_equal_answers():
    shown = [s for s in report()["examples"] if s["kind"] == "caption" and s["sort"] == "helped"]
    assert shown
    said = {tuple(a["rows"]): a for a in shown[0]["answers"]}
    assert said[("greedy", "vti")]["wrong"] == [[12, 15]]
    assert said[("spin",)]["wrong"] == []


def test_a_private_benchmark_shows_no_example():
    config = CONFIG.model_copy(update={"private": ("tiny",)})
    page = render_html(report(config=config))
    assert report(config=config)["examples"] == []
    assert "A dog and a cat" not in page
    assert "Describe." not in page


def test_a_benchmark_that_says_it_is_restricted_is_private_unasked():
    examples = [replace(e, meta={"restricted": True}) for e in EXAMPLES]
    found = report(examples=examples)
    assert found["benchmarks"]["tiny"]["private"] is True
    assert found["examples"] == []


def test_whatever_comes_from_data_is_escaped():
    examples = [replace(e, question=EVIL) for e in EXAMPLES]
    sides = [side("greedy", examples, wrong=5), side("spin", examples, wrong=1)]
    parsed = read(render_html(report(sides, examples=examples, manifest={"name": EVIL, "command": EVIL})))
    assert [tag for tag, _ in parsed.tags].count("script") == 1
    assert not any("onerror" in attributes for _, attributes in parsed.tags)
    assert EVIL in "".join(parsed.text)


def test_faults_stand_in_the_page():
    spin = SIDES[1].matched
    account = replace(spin.account, counts={"missing": 21}, named={"missing": ("p1", "p2")})
    odd = replace(SIDES[1], matched=replace(spin, account=account))
    text = " ".join(read(render_html(report([SIDES[0], odd]))).text)
    assert "21 of 80" in text
    assert "p1, p2, …" in text


def test_markdown_for_a_readme():
    text = markdown(report())
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert rows[0].startswith("| method | POPE adversarial: accuracy | POPE adversarial: F1 |")
    assert any(line.startswith("| spin | **90.0%** (") for line in rows)
    assert any(line.startswith("| guard | it is not built yet |") for line in rows)
    assert len({line.count("|") for line in rows[:6]}) == 1
    assert "| 3.00 | 1.50 | 109 |" in text


def test_two_models_stand_apart():
    models = {"a": {"source": "world"}, "b": {"source": "world"}}
    config = BenchmarkConfig.model_validate(
        {**CONFIG.model_dump(mode="json", exclude={"model"}), "models": models}
    )
    sides = [replace(s, model=name) for name in models for s in SIDES]
    text = " ".join(read(render_html(report(sides, config))).text)
    assert "b: spin" in text
    assert "Differences from greedy, b" in text
