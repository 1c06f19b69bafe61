"""The bank of 11 probes against 11 plain trainings, one after another, at HALP's setting.

Plain: for each site an `nn.Sequential` of HALP's layers, `torch.optim.Adam`, batches of 32
gathered from one tensor in memory, autograd; no DataLoader, which would only slow it down.
Ours: `train_bank`. Both see the same 10,000 rows of SmolVLM2's widths (vision_only 1152,
vision_token and query_token 2048 at five layers each), the same split and as many epochs
(fewer than HALP's 50, on both sides: every epoch costs the same), in one process with the
same number of threads, turn by turn; the smallest time of each counts. CPU time stands
beside the wall's, because a busy machine lengthens only the latter. The features know
the label a little, so that an AUROC has something to say. The last line is one JSON object.

    python tests/bench/bench_probes.py [rows=10000] [epochs=1] [rounds=3] [sites=11] [threads=0]
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import nn

from sightline.config.probing import ProbeSettings
from sightline.metrics.detection import auroc
from sightline.probes.bank import train_bank
from sightline.probes.products import has_onednn

SEED = 42
Features = dict[str, np.ndarray]


def world(rows: int, sites: int) -> tuple[Features, np.ndarray]:
    """Random features that know the label along one direction each, the layers ever better."""
    rng = np.random.default_rng(0)
    labels = (rng.random(rows) < 0.25).astype(np.int64)
    names = ["vision_only"] + [
        f"{kind}.layer_{layer}" for kind in ("vision_token", "query_token") for layer in (0, 6, 12, 18, 23)
    ]
    features: Features = {}
    for i, name in enumerate(names[:sites]):
        width = 1152 if name == "vision_only" else 2048
        x = rng.standard_normal((rows, width), dtype=np.float32)
        direction = rng.standard_normal(width).astype(np.float32)
        direction *= (0.8 + 0.2 * i) / np.linalg.norm(direction)
        features[name] = x + (2 * labels - 1).astype(np.float32)[:, None] * direction
    return features, labels


def mlp(width: int, settings: ProbeSettings) -> nn.Sequential:
    """HALP's probe, the sigmoid left to the loss."""
    layers: list[nn.Module] = []
    for out in settings.widths:
        layers += [nn.Linear(width, out), nn.ReLU(), nn.BatchNorm1d(out), nn.Dropout(settings.dropout)]
        width = out
    return nn.Sequential(*layers, nn.Linear(width, 1))


class Clock:
    """Seconds of the wall and of this process on its CPUs; others' load lengthens only the first."""

    def __init__(self) -> None:
        self._started = np.array([time.perf_counter(), time.process_time()])

    def read(self) -> np.ndarray:
        return np.array([time.perf_counter(), time.process_time()]) - self._started


def plain(
    features: Features, labels: np.ndarray, train: np.ndarray, test: np.ndarray, settings: ProbeSettings
):
    """Eleven trainings one after another; (seconds of training, AUROC by site)."""
    targets_N = torch.from_numpy(labels[train].astype(np.float32))
    seconds, scores = np.zeros(2), {}
    for name, x in features.items():
        inputs_ND = torch.from_numpy(x[train])
        clock = Clock()
        torch.manual_seed(SEED)
        net = mlp(x.shape[1], settings)
        optimizer = torch.optim.Adam(net.parameters(), lr=settings.lr)
        loss_of = nn.BCEWithLogitsLoss()
        for _ in range(settings.epochs):
            for rows in torch.randperm(len(inputs_ND)).split(settings.batch_size):
                optimizer.zero_grad()
                loss = loss_of(net(inputs_ND[rows]).squeeze(1), targets_N[rows])
                loss.backward()
                optimizer.step()
        seconds += clock.read()
        with torch.inference_mode():
            scores[name] = auroc(labels[test], net.eval()(torch.from_numpy(x[test]))[:, 0].numpy())
    return seconds, scores


def bank(
    features: Features, labels: np.ndarray, train: np.ndarray, test: np.ndarray, settings: ProbeSettings
):
    """All at once; (seconds with its checks and copies, AUROC by site)."""
    clock = Clock()
    result = train_bank(features, labels, train, [], settings, seeds=(SEED,))
    seconds = clock.read()
    scores = {
        name: auroc(labels[test], result.trained[name, SEED].probe.logits(x[test]))
        for name, x in features.items()
    }
    return seconds, scores


def main(argv: Sequence[str]) -> None:
    options = {"rows": 10_000, "epochs": 1, "rounds": 3, "sites": 11, "threads": 0}
    options |= {key: int(value) for key, value in (argument.split("=") for argument in argv)}
    if options["threads"]:
        torch.set_num_threads(options["threads"])
    features, labels = world(options["rows"], options["sites"])
    order = np.random.default_rng(SEED).permutation(options["rows"])
    train, test = order[: options["rows"] * 8 // 10], order[options["rows"] * 8 // 10 :]
    settings = ProbeSettings(epochs=options["epochs"])
    rough = settings.model_copy(update={"precision": "bfloat16"})
    ways: dict[str, Callable] = {
        "plain": lambda: plain(features, labels, train, test, settings),
        "float32": lambda: bank(features, labels, train, test, settings),
        "bfloat16": lambda: bank(features, labels, train, test, rough),
    }
    seconds: dict[str, list[np.ndarray]] = {name: [] for name in ways}
    scores: dict[str, dict[str, float]] = {}
    for _ in range(options["rounds"]):
        for name, way in ways.items():
            spent, scores[name] = way()
            seconds[name].append(spent)
    wall, cpu = ({name: min(s[k] for s in spent) for name, spent in seconds.items()} for k in (0, 1))
    gap = {
        name: max(abs(scores[name][site] - scores["plain"][site]) for site in features)
        for name in ("float32", "bfloat16")
    }
    result = {
        "bench": "probes",
        "ratio": round(wall["plain"] / wall["float32"], 3),
        "ratio_bfloat16": round(wall["plain"] / wall["bfloat16"], 3),
        "ratio_cpu_time": {name: round(cpu["plain"] / cpu[name], 3) for name in ("float32", "bfloat16")},
        "wall_s": {name: round(value, 3) for name, value in wall.items()},
        "cpu_s": {name: round(value, 3) for name, value in cpu.items()},
        "auroc_gap": {name: round(value, 4) for name, value in gap.items()},
        "auroc_mean": {name: round(float(np.mean(list(s.values()))), 4) for name, s in scores.items()},
        "widths": [x.shape[1] for x in features.values()],
        "batch_size": settings.batch_size,
        "epochs_note": f"{options['epochs']} on both sides; HALP's setting is 50",
        "onednn": has_onednn(),
        **options,
        "threads": torch.get_num_threads(),
    }
    print(json.dumps(result))  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1:])
