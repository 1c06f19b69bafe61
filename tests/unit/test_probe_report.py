"""results.json, the bank's report, its figure and page: HALP's keys, honest choices, nothing unescaped."""

import dataclasses
import json
import re

import numpy as np
import pytest

from sightline.config.probing import ProbeSettings, SplitSettings
from sightline.errors import DataError
from sightline.probes.artifact import Probe
from sightline.probes.bank import train_bank
from sightline.probes.controls import run_controls
from sightline.probes.report import bank_report, headline, render_html, write_bank, write_probe
from sightline.probes.results import Rows, measure
from sightline.probes.splits import split_rows

SETTINGS = ProbeSettings(widths=(8,), epochs=3, lr=1e-2)
N = 400
SITES = {"vision_only": 0.0, "query_token.layer_2": 1.0, "query_token.layer_10": 0.5}


def world(valid_share=0.15):
    rng = np.random.default_rng(0)
    labels = (rng.random(N) < 0.35).astype(np.int64)
    features = {}
    for site, signal in SITES.items():
        x = rng.normal(size=(N, 6)).astype(np.float32)
        x[:, 0] += signal * (2 * labels - 1)
        features[site] = x
    kinds = rng.choice(["exists", "<b>count</b>"], size=N).tolist()
    rows = Rows(labels, [f"image_{i // 3}" for i in range(N)], kinds, ["Is it?"] * N, ["world"] * N)
    split = split_rows(labels, SplitSettings(valid_share=valid_share), images=rows.images)
    return features, rows, split


def measured(valid_share=0.15, seeds=(42, 43)):
    features, rows, split = world(valid_share)
    bank = train_bank(features, rows.labels_N, split.train, split.valid, SETTINGS, seeds=seeds)
    found = {}
    for (site, seed), trained in bank.trained.items():
        found[site, seed] = measure(
            trained, features[site], rows, split, model_name="<i>toy</i>", resamples=50
        )
    return features, rows, split, found


@pytest.fixture(scope="module")
def made():
    features, rows, split, found = measured()
    controls = run_controls(rows, split, SETTINGS, features=features, resamples=50)
    results = [result for _, result in found.values()]
    refused = {"query_token.embedding": "the feature is the same vector in every row"}
    report = bank_report(results, controls, refused=refused, manifest={"name": "test", "command": "x <y>"})
    return found, report


def test_halps_keys_are_there_as_halp_writes_them(made):
    found, _ = made
    _, result = found["query_token.layer_2", 42]
    assert result["embedding_type"] == "query_token_representation"
    assert result["layer_name"] == "layer_2"
    assert result["input_dim"] == 6
    assert set(result["test_set"]) == {"accuracy", "precision", "recall", "f1", "auroc"}
    assert found["vision_only", 42][1]["layer_name"] is None


def test_ours_stand_beside_them(made):
    found, _ = made
    probe, result = found["query_token.layer_2", 42]
    assert result["auroc"]["value"] == pytest.approx(result["test_set"]["auroc"]), "calibration keeps ranks"
    assert result["auroc"]["low"] < result["auroc"]["value"] < result["auroc"]["high"]
    assert result["best_threshold"]["threshold"] == probe.threshold
    assert sum(result["confusion"].values()) == result["rows"]["test"]["n"]
    assert len(result["history"]) == SETTINGS.epochs
    json.dumps(result, allow_nan=False)


def test_threshold_and_calibration_do_not_look_at_the_test_rows():
    """Turning the test labels round changes scores, but neither threshold nor calibration."""
    features, rows, split = world()
    site = "query_token.layer_2"
    trained = train_bank({site: features[site]}, rows.labels_N, split.train, split.valid, SETTINGS).trained[
        site, 42
    ]
    before, _ = measure(trained, features[site], rows, split, model_name="toy", resamples=10)
    labels = rows.labels_N.copy()
    labels[split.test] = 1 - labels[split.test]
    other = dataclasses.replace(rows, labels_N=labels)
    after, _ = measure(trained, features[site], other, split, model_name="toy", resamples=10)
    assert (after.threshold, after.slope, after.offset) == (before.threshold, before.slope, before.offset)


def test_without_validation_rows_nothing_is_chosen():
    _, _, _, found = measured(valid_share=0.0, seeds=(42,))
    for probe, result in found.values():
        assert (probe.threshold, probe.slope, probe.offset) == (0.5, 1.0, 0.0)
        assert result["valid_set"]["auroc"] is None
    report = bank_report([r for _, r in found.values()], {}, refused={}, manifest={})
    assert report["best_chosen_on"] == "test rows"
    assert "no control" in report["headline"]


def test_the_report_orders_sites_and_gathers_seeds(made):
    _, report = made
    assert [site["site"] for site in report["sites"]] == list(SITES), "layer 2 stands before layer 10"
    assert all(len(site["seeds"]) == 2 for site in report["sites"])
    assert report["best"] == "query_token.layer_2"
    assert report["best_chosen_on"] == "validation rows"
    json.dumps(report, allow_nan=False)
    with pytest.raises(DataError, match="at least one probe"):
        bank_report([], {}, refused={}, manifest={})


def test_the_headline_does_not_boast():
    best = {"label": "the query token at layer 2", "auroc": {"value": 0.7, "low": 0.6, "high": 0.8}}
    control = {"label": "words of the question alone", "auroc": {"value": 0.65, "low": 0.55, "high": 0.75}}
    assert "not clearly above" in headline(best, {"text_only": control})
    weak = control | {"auroc": {"value": 0.5, "low": 0.45, "high": 0.55}}
    assert headline(best, {"text_only": weak}).endswith(": 0.50.")


def test_folders_hold_what_they_promise(made, tmp_path):
    found, report = made
    probe, result = found["query_token.layer_2", 42]
    write_probe(tmp_path / "probe", probe, result)
    write_bank(tmp_path, report)
    names = {path.name for path in (tmp_path / "probe").iterdir()}
    pngs = {"confusion_matrix.png", "roc_curve.png", "training_history.png", "calibration.png"}
    assert names == pngs | {"probe.safetensors", "probe.json", "results.json"}
    for path in [*(tmp_path / "probe" / name for name in pngs), tmp_path / "bank.png"]:
        assert path.read_bytes().startswith(b"\x89PNG")
    assert json.loads((tmp_path / "probe" / "results.json").read_text()) == result
    features, _, _ = world()
    x = features["query_token.layer_2"]
    np.testing.assert_allclose(Probe.load(tmp_path / "probe").predict_proba(x), probe.predict_proba(x))


def test_the_page_stands_alone_and_escapes(made):
    _, report = made
    page = render_html(json.loads(json.dumps(report)))
    assert "<i>toy" not in page
    assert "&lt;i&gt;toy" in page
    assert "x &lt;y&gt;" in page
    assert not re.findall(r'(?:src|href)="(?!#|data:)', page)
    assert "query_token.embedding" in page
    assert page.count("<svg") == 2


def test_mass_mean_has_figures_without_history(tmp_path):
    features, rows, split = world()
    settings = ProbeSettings(head="mass_mean")
    site = "query_token.layer_2"
    trained = train_bank({site: features[site]}, rows.labels_N, split.train, split.valid, settings).trained[
        site, 42
    ]
    probe, result = measure(trained, features[site], rows, split, model_name="toy", resamples=10)
    write_probe(tmp_path, probe, result)
    render_html(bank_report([result], {}, refused={}, manifest={}))
    assert result["auroc"]["value"] > 0.8


def test_columns_must_be_as_long_as_labels():
    with pytest.raises(DataError, match="3 images"):
        Rows(np.zeros(3, dtype=np.int64), ["a"], ["k"] * 3, ["q"] * 3, ["s"] * 3)
