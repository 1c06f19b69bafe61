"""The report: complete, self-contained, escaped, and unmoved by odd data."""

import json
import re
from html.parser import HTMLParser

import pytest

from sightline.config.dpo import DpoConfig
from sightline.config.evaluation import EvaluationConfig, GateConfig
from sightline.evaluation.examples import choose
from sightline.evaluation.predictions import Prediction
from sightline.evaluation.report import assemble, render_html, write_report
from sightline.evaluation.run_folder import RunFolder
from sightline.evaluation.wording import amount, headline, trend
from sightline.records import Example

EVIL = '<script>alert("x")</script><img src=x onerror=alert(1)> & "dog"'
LEXICON = {"dog": "dog", "cat": "cat"}
SETTINGS = EvaluationConfig(bootstrap=50, shown=6)
VOID = {"meta", "img", "br", "link", "input", "hr"}


class Balanced(HTMLParser):
    """Collects tags, and fails on a closing tag that closes nothing."""

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.text = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def read(page):
    parsed = Balanced()
    parsed.feed(page)
    assert parsed.open == []
    return parsed


def answers(
    false_yes,
    invented,
    *,
    count=12,
    question="Is there a cat?",
    text="A dog lies in the warm sun",
    uri="/none.png",
):
    rows = []
    for i in range(count):
        common = {"image_id": f"image-{i}", "image_uri": uri, "objects": ("dog",)}
        pope = Example(
            f"p{i}", question=question, kind="yes_no", answer="No.", split="pope_adversarial", **common
        )
        caption = Example(f"c{i}", question="Describe.", kind="caption", split="caption", **common)
        rows.append(Prediction(pope, "Yes." if i < false_yes else "No."))
        rows.append(Prediction(caption, f"{text} and a cat" if i < invented else text))
    return rows


def report(before=None, after=None, *, settings=SETTINGS, **more):
    return assemble(
        manifest=more.pop("manifest", {"name": "demo", "command": "python jobs/dpo.py", "seed": 0}),
        config=more.pop("config", DpoConfig()),
        before=answers(10, 9) if before is None else before,
        after=answers(2, 1) if after is None else after,
        lexicon=LEXICON,
        settings=settings,
        **more,
    )


def test_report_holds_the_comparison_as_strict_json(tmp_path):
    write_report(RunFolder.at(tmp_path), report())
    text = (tmp_path / "report.json").read_text(encoding="utf-8")
    found = json.loads(text, parse_constant=pytest.fail)
    keys = {"benchmark", "metric", "before", "after", "delta", "relative", "ci_low", "ci_high", "n"}
    assert all(row.keys() == keys for row in found["comparison"])
    assert found["verdict"]["promote"] is True
    assert found["headline"].startswith("False yeses on POPE adversarial fell from 83.3% to 16.7%, captions")
    assert (tmp_path / "before_after.png").read_bytes().startswith(b"\x89PNG")
    # An old report.json renders to the same page.
    assert render_html(found) == (tmp_path / "report.html").read_text(encoding="utf-8")


def test_page_needs_nothing_beside_it():
    training = [{"step": i, "loss": 1 / (i + 1), "margin": i, "accuracy": 0.5, "lr": 1e-5} for i in range(30)]
    page = render_html(
        report(training=training, mining={"cm": 10, "oa1": 2}, timings_s={"mine": 1.25, "train": 75})
    )
    parsed = read(page)
    for tag, attributes in parsed.tags:
        for name in ("src", "href", "xlink:href"):
            assert attributes.get(name, "data:").startswith(("data:", "#")), (tag, attributes)
    assert "@import" not in page
    assert "url(http" not in page
    text = " ".join(parsed.text)
    for expected in ("Promoted", "POPE adversarial", "oa1", "1 min 15 s", "python jobs/dpo.py"):
        assert expected in text
    assert len(re.findall(r"<article", page)) == 6


def test_ids_are_unique():
    training = [{"step": i, "loss": 1.0} for i in range(3)]
    ids = re.findall(r'\bid="([^"]+)"', render_html(report(training=training)))
    clips = [i for i in ids if not re.match(r"(figure|axes|patch|line2d|text|matplotlib|xtick|ytick)", i)]
    assert len(clips) == len(set(clips))


def test_whatever_comes_from_data_is_escaped():
    odd = report(
        answers(10, 9, question=EVIL, text=EVIL),
        answers(2, 1, question=EVIL, text=EVIL),
        manifest={"name": EVIL, "command": EVIL, "started": EVIL},
        config={"model": {"source": EVIL}},
        mining={EVIL: 3},
    )
    parsed = read(render_html(odd))
    assert [tag for tag, _ in parsed.tags].count("script") == 1
    assert not any("onerror" in attributes for _, attributes in parsed.tags)
    assert EVIL in "".join(parsed.text)


def test_offending_words_are_marked_and_truth_is_beneath():
    parsed = read(render_html(report()))
    marked = [parsed.text[i] for i, t in enumerate(parsed.text) if t in ("cat", "Yes.")]
    assert "cat" in marked
    assert "Yes." in marked
    assert "image not available" in " ".join(parsed.text)


@pytest.mark.parametrize(
    "training",
    [
        [],
        [{"step": 1}],
        [{"step": 1, "loss": float("nan")}],
        [{"step": 1, "loss": 0.5}, {"step": 2, "loss": None, "lr": 0.0}],
    ],
)
def test_odd_training_logs_render(training):
    read(render_html(report(training=training)))


def test_nothing_measured_still_renders(tmp_path):
    empty = report() | {"comparison": [], "examples": [], "headline": headline([], [])}
    write_report(RunFolder.at(tmp_path), empty)
    assert "Nothing was compared" in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert not (tmp_path / "before_after.png").exists()


def test_undefined_scores_render():
    one_image = [Prediction(p.example, "No.") for p in answers(0, 0, count=1) if p.example.kind == "yes_no"]
    gate = GateConfig(must_fall=("pope_adversarial.false_yes_rate",))
    found = report(one_image, one_image, settings=SETTINGS.model_copy(update={"gate": gate}))
    precision = next(row for row in found["comparison"] if row["metric"] == "precision")
    assert precision["before"] is None
    assert precision["n"] == 0
    assert found["verdict"]["promote"] is False
    read(render_html(found))


def test_failed_answers_are_named():
    before, after = answers(10, 9), answers(2, 1)
    after[0] = Prediction(after[0].example, "", error=f"cannot read {EVIL}")
    found = report(before, after)
    assert found["failed"] == [{"side": "after", "example_id": "p0", "error": f"cannot read {EVIL}"}]
    assert f"cannot read {EVIL}" in "".join(read(render_html(found)).text)


def test_examples_show_the_good_the_bad_and_one_image_once():
    before, after = answers(10, 9), answers(2, 1)
    turned = next(i for i, p in enumerate(before) if p.example.example_id == "p11")
    after[turned] = Prediction(after[turned].example, "Yes.")
    chosen = choose(before, after, count=8, lexicon=LEXICON)
    assert len({shown["image_id"] for shown in chosen}) == len(chosen) == 8
    assert [shown["outcome"] for shown in chosen].count("broken") == 1
    assert {"fixed", "broken", "still wrong"} <= {shown["outcome"] for shown in chosen}
    assert choose(before[::-1], after, count=8, lexicon=LEXICON) == chosen
    assert choose(before, after, count=0, lexicon=LEXICON) == []


def test_words_for_numbers():
    row = {"benchmark": "caption", "metric": "chair_s", "before": 0.3, "after": 0.3}
    unsure = row | {"delta": 0.0, "ci_low": -0.1, "ci_high": 0.1}
    assert headline([unsure], ["caption.chair_s"]) == (
        "Captions with an invented object went from 30.0% to 30.0% (within chance)."
    )
    assert trend(unsure) == "unclear"
    assert trend(unsure | {"ci_low": 0.01}) == "worse"
    assert trend(unsure | {"metric": "length", "ci_low": 0.01}) == "neutral"
    assert amount(-0.1284, "chair_s", signed=True) == "\N{MINUS SIGN}12.8"
    assert amount(-0.0001, "chair_s", signed=True) == "0.0"
    assert amount(18.44, "length") == "18.4"
    assert amount(None, "length") == "\N{EN DASH}"
    assert headline([], ["x.y"]) == "Nothing was compared."
