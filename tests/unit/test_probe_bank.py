"""The bank: the same as one by one, the same as plain PyTorch; stops, weights, refusals."""

import numpy as np
import pytest
import torch
from torch import nn

from sightline.config.probing import ProbeSettings
from sightline.errors import DataError
from sightline.probes import bank as banks
from sightline.probes.bank import refusals, train_bank
from sightline.probes.epochs import generator
from sightline.probes.heads import initial
from sightline.probes.products import Batched, OneByOne

SMALL = ProbeSettings(widths=(16, 8), epochs=3, batch_size=16)
N = 150
LAST_BITS = 1e-5
"""Stacked heads are summed in another order than one alone: 6e-8 of difference after the first epoch,
which Adam at this learning rate has carried to 2e-6 by the twelfth (measured, at 1 and 2 threads)."""


def world(widths=(12, 20, 20), rows=N, seed=0, signal=1.0):
    """Features that know the label along one direction, and labels."""
    rng = np.random.default_rng(seed)
    labels = (rng.random(rows) < 0.4).astype(np.int64)
    features = {}
    for i, width in enumerate(widths):
        x = rng.normal(size=(rows, width)).astype(np.float32)
        x[:, 0] += signal * (2 * labels - 1)
        features[f"query_token.layer_{i}"] = x
    return features, labels


def sides(rows=N):
    index = np.arange(rows)
    return index[: rows * 3 // 4], index[rows * 3 // 4 :]


def plain_mlp(width, hidden, dropout_masks):
    """HALP's module, its dropout replaced by given masks so that both sides see the same."""
    layers, fan_in = [], width
    for i, out in enumerate(hidden):
        layers += [nn.Linear(fan_in, out), nn.ReLU(), nn.BatchNorm1d(out), Given(dropout_masks, i)]
        fan_in = out
    return nn.Sequential(*layers, nn.Linear(fan_in, 1))


class Given(nn.Module):
    def __init__(self, masks, layer):
        super().__init__()
        self.masks, self.layer = masks, layer

    def forward(self, x):
        return x * self.masks[-1][self.layer] if self.training else x


def plain_training(x, labels, settings, seed):
    """The textbook loop: nn.Module, autograd, torch.optim.Adam."""
    masks: list = []
    net = plain_mlp(x.shape[1], settings.widths, masks)
    linear = [m for m in net if isinstance(m, nn.Linear)]
    start = initial(x.shape[1], settings.widths, generator(seed, "start"))
    names = [f"hidden.{i}" for i in range(len(settings.widths))] + ["out"]
    with torch.no_grad():
        for layer, name in zip(linear, names, strict=True):
            layer.weight.copy_(start[f"{name}.weight"])
            layer.bias.copy_(start[f"{name}.bias"])
    optimizer = torch.optim.Adam(net.parameters(), settings.lr, weight_decay=settings.weight_decay)
    row_weights = torch.from_numpy(banks.row_weights(labels, settings))
    order, dropout = generator(seed, "order"), generator(seed, "dropout")
    x_t, y_t = torch.from_numpy(x), torch.from_numpy(labels.astype(np.float32))
    for _ in range(settings.epochs):
        for rows in torch.randperm(len(x), generator=order).split(settings.batch_size):
            if len(rows) < 2:
                continue
            drawn = torch.rand(len(rows), sum(settings.widths), generator=dropout)
            kept = (drawn >= settings.dropout).float() / (1 - settings.dropout)
            masks.append(kept.split(settings.widths, dim=1))
            loss_B = nn.functional.binary_cross_entropy_with_logits(
                net(x_t[rows])[:, 0], y_t[rows], reduction="none"
            )
            optimizer.zero_grad()
            (loss_B * row_weights[rows]).mean().backward()
            optimizer.step()
    return net.eval()


@pytest.mark.parametrize(
    "settings", [SMALL, SMALL.model_copy(update={"class_weight": "balanced", "weight_decay": 0.01})]
)
def test_the_bank_learns_what_plain_pytorch_learns(settings):
    features, labels = world()
    train, _ = sides()
    result = train_bank(features, labels, train, [], settings, seeds=(42, 7))
    for (site, seed), trained in result.trained.items():
        net = plain_training(features[site][train], labels[train], settings, seed)
        with torch.no_grad():
            expected = net(torch.from_numpy(features[site]))[:, 0].numpy()
        np.testing.assert_allclose(trained.probe.logits(features[site]), expected, atol=2e-3)


@pytest.mark.parametrize("head", ["mlp", "linear", "mass_mean"])
def test_together_is_one_by_one(head):
    features, labels = world()
    train, valid = sides()
    settings = SMALL.model_copy(update={"head": head})
    together = train_bank(features, labels, train, valid, settings, seeds=(1, 2))
    for site, x in features.items():
        for seed in (1, 2):
            alone = train_bank({site: x}, labels, train, valid, settings, seeds=(seed,)).trained[site, seed]
            for name, array in alone.probe.weights.items():
                np.testing.assert_allclose(together.trained[site, seed].probe.weights[name], array, atol=1e-6)
            assert len(alone.history) == len(together.trained[site, seed].history)


def test_batched_products_equal_one_by_one(monkeypatch):
    """What a GPU would compute, computed here."""
    features, labels = world()
    train, valid = sides()
    expected = train_bank(features, labels, train, valid, SMALL)
    monkeypatch.setattr("sightline.probes.epochs.choose", lambda device, dtype: Batched(device, dtype))
    got = train_bank(features, labels, train, valid, SMALL)
    for key, trained in expected.trained.items():
        for name, array in trained.probe.weights.items():
            np.testing.assert_allclose(got.trained[key].probe.weights[name], array, atol=1e-4)


def test_without_onednn_nothing_changes(monkeypatch):
    features, labels = world()
    train, _ = sides()
    expected = train_bank(features, labels, train, [], SMALL)
    monkeypatch.setattr("sightline.probes.products._ONEDNN", False)
    got = train_bank(features, labels, train, [], SMALL)
    for key, trained in expected.trained.items():
        np.testing.assert_allclose(
            got.trained[key].probe.weights["out.weight"], trained.probe.weights["out.weight"], atol=1e-4
        )


@pytest.mark.parametrize("kind", [OneByOne, Batched])
def test_bfloat16_products_stay_close(kind, monkeypatch):
    features, labels = world()
    train, valid = sides()
    monkeypatch.setattr("sightline.probes.epochs.choose", lambda device, dtype: kind(device, dtype))
    rough = SMALL.model_copy(update={"precision": "bfloat16"})
    exact = train_bank(features, labels, train, valid, SMALL).trained
    for key, trained in train_bank(features, labels, train, valid, rough).trained.items():
        assert trained.probe.weights["hidden.0.weight"].dtype == np.float32
        assert trained.history[-1].valid_auroc == pytest.approx(exact[key].history[-1].valid_auroc, abs=0.03)


def test_sites_dealt_out_to_threads_come_back_in_their_places():
    features, labels = world()
    train, valid = sides()
    before, heard = torch.get_num_threads(), []
    results = {}
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            bank = train_bank(
                features, labels, train, valid, SMALL, (42, 43), on_epoch=lambda key, _: heard.append(key)
            )
            assert torch.get_num_threads() == threads
            results[threads] = bank.trained
    finally:
        torch.set_num_threads(before)
    assert list(results[1]) == list(results[2]) == [(site, seed) for site in features for seed in (42, 43)]
    assert sorted(heard) == sorted(2 * SMALL.epochs * list(results[1]))
    for key, trained in results[1].items():
        for name, array in trained.probe.weights.items():
            np.testing.assert_allclose(results[2][key].probe.weights[name], array, atol=1e-6)


def test_a_stopped_probe_keeps_its_best_epoch_and_disturbs_no_other():
    features, labels = world(widths=(12, 12), signal=0.0)
    features["query_token.layer_1"][:, 0] += 3 * labels
    train, valid = sides()
    settings = SMALL.model_copy(update={"epochs": 12, "patience": 2, "lr": 1e-2})
    both = train_bank(features, labels, train, valid, settings).trained
    noise, signal = both["query_token.layer_0", 42], both["query_token.layer_1", 42]
    assert len(noise.history) < len(signal.history)
    losses = [e.valid_loss for e in noise.history]
    assert noise.stopped == 1 + int(np.argmin(losses))
    assert len(noise.history) == noise.stopped + 2
    until = settings.model_copy(update={"epochs": noise.stopped, "patience": None})
    short = train_bank({"query_token.layer_0": features["query_token.layer_0"]}, labels, train, valid, until)
    for name, array in short.trained["query_token.layer_0", 42].probe.weights.items():
        np.testing.assert_allclose(noise.probe.weights[name], array, atol=LAST_BITS)
    alone = train_bank(
        {"query_token.layer_1": features["query_token.layer_1"]}, labels, train, valid, settings
    )
    for name, array in alone.trained["query_token.layer_1", 42].probe.weights.items():
        np.testing.assert_allclose(signal.probe.weights[name], array, atol=LAST_BITS)


def test_balanced_rows_weigh_the_same_in_sum():
    labels = np.array([1] * 10 + [0] * 90)
    weights = banks.row_weights(labels, ProbeSettings(class_weight="balanced"))
    assert weights[labels == 1].sum() == pytest.approx(weights[labels == 0].sum())
    assert weights.sum() == pytest.approx(100)


@pytest.mark.parametrize("head", ["mlp", "linear", "mass_mean"])
def test_every_head_finds_a_plain_signal(head):
    features, labels = world(rows=400, signal=2.0)
    train, valid = sides(400)
    settings = SMALL.model_copy(update={"head": head, "epochs": 10, "lr": 1e-2})
    for trained in train_bank(features, labels, train, valid, settings).trained.values():
        scores = trained.probe.predict_proba(features[trained.probe.site][valid])
        assert banks_auroc(labels[valid], scores) > 0.95


def banks_auroc(labels, scores):
    from sightline.metrics.detection import auroc

    return auroc(labels, scores)


def test_a_short_last_batch_is_learned_from_and_one_row_is_not():
    features, labels = world(rows=81)  # 60 rows: 3 batches of 16 and one of 12
    index = np.arange(81)
    for rows in (60, 49):  # 49: the last batch would be one row
        train_bank(features, labels, index[:rows], [], SMALL)


def test_constant_and_broken_features_are_refused_with_the_reason():
    features, labels = world(widths=(12, 20))
    features["query_token.embedding"] = np.ones((N, 12), dtype=np.float32)
    features["vision_only"] = features["query_token.layer_0"].copy()
    features["vision_only"][3, 2] = np.nan
    result = train_bank(features, labels, *sides(), SMALL)
    assert "same vector" in result.refused["query_token.embedding"]
    assert "NaN or infinity in 1 of 150" in result.refused["vision_only"]
    assert {site for site, _ in result.trained} == {"query_token.layer_0", "query_token.layer_1"}
    with pytest.raises(DataError, match="a site that can be probed"):
        train_bank({"query_token.embedding": features["query_token.embedding"]}, labels, *sides(), SMALL)


def test_what_spoils_every_site_is_an_error():
    features, labels = world()
    with pytest.raises(DataError, match="hallucinated"):
        refusals(features, np.zeros(N))
    with pytest.raises(DataError, match="labels 0 and 1"):
        refusals(features, np.full(N, 2))
    with pytest.raises(DataError, match="at least 20"):
        refusals({}, labels[:10])
    with pytest.raises(DataError, match="one a label"):
        refusals({"vision_only": features["query_token.layer_0"][:-1]}, labels)
    with pytest.raises(DataError, match="validation rows"):
        train_bank(features, labels, sides()[0], [], SMALL.model_copy(update={"patience": 2}))
