"""Every mitigation with settings that fit the tiny models, for tests that go over all of them.

A method added to `config.mitigations.METHODS` has to be given an example here; the tests
of conformance and the support table then hold it to what every method promises.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from steered import directions
from tiny import random_image

from sightline.config.mitigations import METHODS
from sightline.models.prompts import Prompt
from sightline.models.vlm import Vlm

EXAMPLES: dict[str, dict[str, Any]] = {
    "vti": {"text": 4.0},
    "vti, image": {"type": "vti", "text": 0.0, "image": 6.0},
    "steer": {"strength": 2.0},
    "spin": {"k": 0.5, "alpha": 0.0},
    "pai": {"alpha": 2.0},
    "pai, guided": {"type": "pai", "alpha": 0.0, "gamma": 2.0},
    "greedy": {},
    "beam": {"num_beams": 2},
    "sample": {"temperature": 0.7, "seed": 3},
    "vcd": {"noise_step": 900},
    "rcd": {},
    "icd": {},
    "dola": {"layers": "0+1"},
    "opera": {"num_beams": 2, "candidates": 3, "threshold": 1},
}
"""Strong enough to change tokens: a method that did nothing would conform to everything."""
INTERVENTIONS = ("vti", "vti, image", "steer", "spin", "pai")
"""Examples that change the model and not the decoding, so that stock generate can run under them."""
CONTEXT = "A bus is on the street. A dog is left of it."

assert {name.split(",")[0] for name in EXAMPLES} == set(METHODS), "give every method an example"


def example(name: str, folder: str = "") -> dict[str, Any]:
    """The settings of one example; `folder` is one that `make_directions` wrote."""
    settings = {"type": name} | EXAMPLES[name]
    return settings | {"directions": folder} if settings["type"] in ("vti", "steer") else settings


def make_directions(vlm: Vlm, folder: Path) -> str:
    """Random textual and visual directions of this model in a folder."""
    directions(vlm).save(folder)
    return str(folder)


def three_prompts() -> list[Prompt]:
    """Two images of different shapes, questions of different lengths, each with a Reference."""
    first, second = random_image(1, 50, 40), random_image(2, 30, 60)
    return [
        Prompt(first, "Is there a dog in the image?", CONTEXT),
        Prompt(second, "What color is the bus?", CONTEXT),
        Prompt(first, "Describe this image in detail.", CONTEXT),
    ]
