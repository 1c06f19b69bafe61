"""Questions about a scene and their true answers: existence, colour, count, relation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sightline.records import Kind
from sightline.world.nouns import NOUNS, plural, with_article
from sightline.world.scenes import Item, Scene

CAPTION_QUESTION = "Describe this image in detail."
NUMBERS = ("Zero.", "One.", "Two.", "Three.", "Four.", "Five.", "Six.", "Seven.")
_MIN_OFFSET = 14
"""Two icons are left/right of or above/below each other only if this many pixels apart."""


@dataclass(frozen=True, slots=True)
class Question:
    """A question, its true answer, and the noun it is about ("" for captions)."""

    text: str
    answer: str
    kind: Kind
    noun: str = ""


def existence(scene: Scene, noun: str) -> Question:
    """POPE's question about one noun."""
    answer = "Yes." if noun in scene.objects else "No."
    return Question(f"Is there {with_article(noun)} in the image?", answer, "yes_no", noun)


def random_absent(scene: Scene, rng: np.random.Generator, count: int) -> list[str]:
    """`count` distinct nouns that are not in the scene, each equally likely."""
    absent = [noun for noun in NOUNS if noun not in scene.objects]
    return [absent[i] for i in rng.permutation(len(absent))[:count]]


def color(scene: Scene, rng: np.random.Generator) -> Question | None:
    """The colour of an object that is there once, or None when every noun repeats."""
    single = _singles(scene)
    if not single:
        return None
    item = single[rng.integers(len(single))]
    return Question(f"What color is the {item.noun}?", f"{item.color.capitalize()}.", "color", item.noun)


def count(scene: Scene, rng: np.random.Generator) -> Question:
    """How many of a noun that is there; half of the time of one that is there more than once, if any is."""
    repeated = [noun for noun in scene.objects if len(scene.of(noun)) > 1]
    nouns = repeated if repeated and rng.integers(2) else scene.objects
    noun = nouns[rng.integers(len(nouns))]
    return Question(f"How many {plural(noun)} are there?", NUMBERS[len(scene.of(noun))], "count", noun)


def relation(scene: Scene, rng: np.random.Generator) -> Question | None:
    """Left/right or above/below of two unambiguous objects, half of the answers being no."""
    single = _singles(scene)
    pairs = [
        (a, b, axis)
        for a in single
        for b in single
        for axis in "xy"
        if a is not b and abs(getattr(a, axis) - getattr(b, axis)) >= _MIN_OFFSET
    ]
    if not pairs:
        return None
    a, b, axis = pairs[rng.integers(len(pairs))]
    before = getattr(a, axis) < getattr(b, axis)
    says_before = bool(rng.integers(2))
    word = {"x": ("right of", "left of"), "y": ("below", "above")}[axis][says_before]
    text = f"Is the {a.noun} {word} the {b.noun}?"
    return Question(text, "Yes." if before == says_before else "No.", "relation", a.noun)


def _singles(scene: Scene) -> list[Item]:
    return [item for item in scene.items if len(scene.of(item.noun)) == 1]
