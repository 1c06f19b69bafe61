"""The search over mitigations, without Ray: what is proposed, what a choice stands for, what is taken."""

from __future__ import annotations

import json
import math
from pathlib import Path

import optuna
import pytest

from sightline.config.loader import parse
from sightline.config.mitigations import to_text
from sightline.config.sweep_steering import SteeringObjectives, SteeringSpace, SweepSteeringConfig
from sightline.errors import ConfigError
from sightline.evaluation.run_folder import plain
from sightline.evaluation.steering_figure import pareto_png
from sightline.evaluation.steering_search import (
    SteeringChoices,
    SteeringTrial,
    baseline_of,
    choose,
    objectives,
    pareto,
)

QUICK = Path(__file__).parents[2] / "configs" / "tune" / "steering_quick.yaml"
EVERYTHING = SteeringSpace(
    methods=("vti", "steer", "spin", "pai"), decoders=("greedy", "beam", "vcd", "icd", "dola", "opera")
)
CHOICES = SteeringChoices(EVERYTHING, {"0.99": "/d/mask-0.99", "0.5": "/d/mask-0.5"}, blocks=5)


def trial(hallucination: float, kept: float, *mitigations: str, name: str = "") -> SteeringTrial:
    choice = {"decoder": "vcd" if "vcd" in mitigations else "greedy"}
    return SteeringTrial(name or f"{hallucination}-{kept}", choice, mitigations, hallucination, kept)


def test_every_proposal_stands_for_settings():
    """Two hundred draws: all valid, all methods met, layers a stretch, numbers as a person writes them."""
    study = optuna.create_study(
        directions=["minimize", "maximize"], sampler=optuna.samplers.RandomSampler(seed=1)
    )
    met: set[str] = set()
    for _ in range(200):
        proposed = study.ask()
        CHOICES(proposed)
        items = CHOICES.mitigations(proposed.params)
        json.dumps(proposed.params)
        met |= {item.type for item in items}
        for item in items:
            layers = getattr(item, "layers", None)
            if isinstance(layers, tuple):
                assert layers == tuple(range(layers[0], layers[-1] + 1))
                assert layers[-1] < 5
            assert len(to_text(item)) < 120
    assert met == {"vti", "steer", "spin", "pai", "beam", "vcd", "icd", "dola", "opera"}


def test_the_first_proposals_are_greedy_and_each_method_alone():
    study = optuna.create_study(
        directions=["minimize", "maximize"], sampler=optuna.samplers.RandomSampler(seed=1)
    )
    types = []
    for choice in CHOICES.first():
        study.enqueue_trial(choice)
        proposed = study.ask()
        CHOICES(proposed)
        types.append([item.type for item in CHOICES.mitigations(proposed.params)])
    assert types[0] == []
    assert sorted(types[1:]) == [
        [name] for name in sorted(["vti", "steer", "spin", "pai", "beam", "vcd", "icd", "dola", "opera"])
    ]


def test_a_choice_by_hand():
    choice = {
        "use_vti": "yes",
        "vti_text": 0.81234,
        "vti_image": 1.0,
        "mask_ratio": "0.5",
        "vti_from": 3,
        "vti_to": 1,
        "use_spin": "no",
        "decoder": "vcd",
        "contrast": 0.5,
        "plausible": 0.1,
    }
    assert [to_text(item) for item in CHOICES.mitigations(choice)] == [
        "vti:text=0.812,image=1.0,directions=/d/mask-0.5,layers=1-3",
        "vcd:alpha=0.5",
    ]


def test_objectives_are_means_and_must_be_measured():
    scores = {"a.x": 0.2, "a.y": 0.4, "b.z": 0.9}
    asked = SteeringObjectives(hallucination=("a.x", "a.y"), kept=("b.z",))
    assert objectives(scores, asked) == (pytest.approx(0.3), 0.9)
    with pytest.raises(ConfigError, match=r"b\.q"):
        objectives(scores, SteeringObjectives(hallucination=("a.x",), kept=("b.q",)))


def test_front_and_choice():
    as_it_is = trial(0.30, 0.90)
    good, better, lossy = trial(0.20, 0.91, "spin"), trial(0.10, 0.89, "vti"), trial(0.01, 0.4, "vcd")
    beaten, failed = trial(0.25, 0.85, "pai"), trial(math.nan, math.nan, "pai", name="failed")
    trials = [as_it_is, good, better, lossy, beaten, failed]
    assert pareto(trials) == [lossy, better, good]
    assert choose(trials, as_it_is, margin=0.01) == better
    assert choose(trials, as_it_is, margin=0.005) == good
    assert choose([as_it_is, lossy], as_it_is, margin=0.01) is None
    assert choose([as_it_is, trial(0.4, 0.95, "pai")], as_it_is, margin=0.01) is None
    assert baseline_of([failed, good, as_it_is]) == as_it_is
    assert baseline_of([good]) is None


def test_trials_survive_json():
    for one in (trial(0.1, 0.9, "spin:k=0.8"), trial(math.nan, math.nan)):
        again = SteeringTrial.from_json(json.loads(json.dumps(plain(one.to_json()))))
        assert plain(again.to_json()) == plain(one.to_json())
        assert again.lost == one.lost


def test_the_figure_is_drawn_with_and_without_a_winner():
    as_it_is, chosen = trial(0.3, 0.9), trial(0.1, 0.9, "vcd", name="w")
    row = {"benchmark": "caption", "metric": "chair_s", "before": 0.3, "after": 0.1, "delta": -0.2}
    report = {
        "headline": "A sentence.",
        "objectives": SteeringObjectives().model_dump(),
        "baseline": as_it_is.to_json(),
        "chosen": chosen.to_json(),
        "confirmed": {"images": 3, "comparison": [row | {"ci_low": -0.3, "ci_high": -0.1, "relative": -0.7}]},
        "pareto": ["w"],
        "confidence": 0.95,
        "trials": [as_it_is.to_json(), chosen.to_json(), trial(math.nan, math.nan, name="x").to_json()],
    }
    for one in (report, report | {"chosen": None, "confirmed": None}):
        assert pareto_png(plain(one)).startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("setting", "match"),
    [
        ("space.kept_heads=[0.9,1.5]", "up to 1"),
        ("space.text=[2,1]", "lowest, highest"),
        ("space.mask_ratio=[0.5,0.5]", "once"),
        ("space.decoders=[vcd]", "greedy"),
        ("objectives.kept=[recall]", r"benchmark\.metric"),
        ("search.dataset={type: pope, path: x.json}", "both"),
    ],
)
def test_contradictions_are_refused(setting, match):
    with pytest.raises(ConfigError, match=match):
        parse(SweepSteeringConfig, [setting])


def test_the_quick_configuration_loads():
    config = parse(SweepSteeringConfig, ["--config", str(QUICK)])
    assert config.run.name == "sweep-steering-quick"
    assert config.search.trials >= len(SteeringChoices(config.space, {}, 5).first())
