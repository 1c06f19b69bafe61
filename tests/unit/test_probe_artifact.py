"""The artefact: what is saved is what was trained; bad files and features are named."""

import json

import numpy as np
import pytest

from sightline.errors import DataError, StorageError
from sightline.metrics.detection import auroc, reliability
from sightline.probes.artifact import Probe, sigmoid
from sightline.probes.calibration import fit_platt


def probe(**changes):
    rng = np.random.default_rng(0)
    weights = {
        "input.mean": rng.normal(size=6).astype(np.float32),
        "input.scale": np.ones(6, dtype=np.float32),
        "hidden.0.weight": rng.normal(size=(4, 6)).astype(np.float32),
        "hidden.0.bias": np.zeros(4, dtype=np.float32),
        "hidden.0.norm.weight": np.ones(4, dtype=np.float32),
        "hidden.0.norm.bias": np.zeros(4, dtype=np.float32),
        "hidden.0.norm.mean": np.zeros(4, dtype=np.float32),
        "hidden.0.norm.var": np.ones(4, dtype=np.float32),
        "out.weight": rng.normal(size=(1, 4)).astype(np.float32),
        "out.bias": np.zeros(1, dtype=np.float32),
    }
    values = {"site": "query_token.layer_3", "head": "mlp", "input_dim": 6, "weights": weights} | changes
    return Probe(**values)


def test_it_comes_back_as_it_went(tmp_path):
    kept = probe(provenance={"seed": 42}, threshold=0.3, slope=0.5, offset=-1.0)
    kept.save(tmp_path / "new" / "folder")
    back = Probe.load(tmp_path / "new" / "folder")
    x = np.random.default_rng(1).normal(size=(5, 6))
    np.testing.assert_array_equal(back.predict_proba(x), kept.predict_proba(x))
    assert (back.site, back.threshold, back.provenance) == (kept.site, 0.3, {"seed": 42})
    description = json.loads((tmp_path / "new" / "folder" / "probe.json").read_text())
    assert description["standardized"] is True
    assert "block i" in description["layer_convention"]


def test_calibration_moves_probabilities_not_ranks():
    x = np.random.default_rng(1).normal(size=(50, 6))
    calibrated = probe(slope=0.2, offset=-1.0)
    np.testing.assert_allclose(calibrated.predict_proba(x), sigmoid(0.2 * calibrated.logits(x) - 1.0))
    np.testing.assert_allclose(calibrated.predict_proba(x, calibrated=False), sigmoid(calibrated.logits(x)))


def test_foreign_features_are_refused():
    with pytest.raises(DataError, match=r"\(N, 6\) of query_token.layer_3"):
        probe().predict_proba(np.zeros((3, 7)))
    x = np.zeros((3, 6))
    x[1, 1] = np.nan
    with pytest.raises(DataError, match="NaN or infinity in 1"):
        probe().predict_proba(x)


def test_broken_folders_are_named(tmp_path):
    with pytest.raises(StorageError, match=r"probe\.json"):
        Probe.load(tmp_path)
    probe().save(tmp_path)
    whole = (tmp_path / "probe.safetensors").read_bytes()
    (tmp_path / "probe.safetensors").write_bytes(whole[:50])
    with pytest.raises(StorageError, match="train it again|Train it again"):
        Probe.load(tmp_path)
    (tmp_path / "probe.safetensors").write_bytes(whole)
    description = json.loads((tmp_path / "probe.json").read_text()) | {"format": 99}
    (tmp_path / "probe.json").write_text(json.dumps(description))
    with pytest.raises(StorageError, match="format 99"):
        Probe.load(tmp_path)


def test_platt_mends_an_overconfident_score():
    rng = np.random.default_rng(0)
    honest = rng.normal(size=4000)
    labels = rng.random(4000) < sigmoid(honest - 1.5)
    shown = 6.0 * honest + 2.0
    slope, offset = fit_platt(shown, labels)
    assert (slope * 6, slope * 2 + offset) == pytest.approx((1.0, -1.5), abs=0.15)
    after = sigmoid(slope * shown + offset)
    assert reliability(labels, after).ece < 0.03 < reliability(labels, sigmoid(shown)).ece
    assert auroc(labels, after) == pytest.approx(auroc(labels, shown))


def test_platt_stays_sane_at_the_edges():
    assert fit_platt(np.array([1.0, 2.0]), [0, 1]) == (1.0, 0.0), "too few rows"
    separable = np.concatenate([np.full(10, -1.0), np.full(10, 1.0)])
    slope, _ = fit_platt(separable, separable > 0)
    assert 0 < slope < 10
    slope, _ = fit_platt(separable, separable < 0)
    assert slope > 0, "calibration never turns a ranking round"
