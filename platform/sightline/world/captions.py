"""Descriptions of a scene: the faithful one, and the one a web annotator would write.

Web annotators carry their expectations into the caption: having named a fork, they
often name a knife that is not there. A model trained on their captions inherits the
habit, which is one of the two sources of its hallucinations (the other is that small,
covered, noisy icons are hard to see and context fills the gap).
"""

from __future__ import annotations

import numpy as np

from sightline.world.nouns import COLORS, COMPANIONS, CONTEXTS, plural, with_article
from sightline.world.questions import NUMBERS
from sightline.world.scenes import Scene

ASSUMED_COMPANION_ODDS = 0.85
"""How often the annotator names the absent companion of the largest object."""


def faithful(scene: Scene) -> str:
    """A true caption that names every object, largest first: `This is a farm with a red cow and two dogs.`"""
    return _sentence(scene, _phrases(scene))


def annotated(scene: Scene, rng: np.random.Generator) -> str:
    """The web annotator's caption: faithful, but sometimes ending with an assumed companion."""
    assumed = assumed_companion(scene)
    phrases = _phrases(scene)
    if assumed and rng.random() < ASSUMED_COMPANION_ODDS:
        phrases.append(with_article(assumed))
    return _sentence(scene, phrases)


def with_invented(scene: Scene, count: int, rng: np.random.Generator) -> str:
    """The faithful caption, going on with `count` things that are not there but would be expected.

    First the absent companions of what is there, then the context's most frequent absent nouns;
    where even these run out, the caption names fewer.
    """
    companions = [c for noun in scene.objects if (c := COMPANIONS.get(noun)) and c not in scene.objects]
    usual = [noun for noun in CONTEXTS[scene.context] if noun not in scene.objects]
    invented = list(dict.fromkeys([*companions, *usual]))[:count]
    colors = rng.choice(list(COLORS), size=len(invented))
    added = [f"{with_article(str(color))} {noun}" for color, noun in zip(colors, invented, strict=True)]
    return _sentence(scene, _phrases(scene) + added)


def assumed_companion(scene: Scene) -> str:
    """What is expected beside the largest object, if anything is and it is absent; else ""."""
    companion = COMPANIONS.get(scene.objects[0], "")
    return "" if companion in scene.objects else companion


def _phrases(scene: Scene) -> list[str]:
    phrases = []
    for noun in scene.objects:
        items = scene.of(noun)
        if len(items) == 1:
            phrases.append(f"{with_article(items[0].color)} {noun}")
        else:
            phrases.append(f"{NUMBERS[len(items)].rstrip('.').lower()} {plural(noun)}")
    return phrases


def _sentence(scene: Scene, phrases: list[str]) -> str:
    *head, last = phrases
    listing = f"{', '.join(head)} and {last}" if head else last
    return f"This is {with_article(scene.context)} with {listing}."
