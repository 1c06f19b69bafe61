"""Sentences of the world's language, to train a tokenizer on."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from sightline.world import captions, questions
from sightline.world.nouns import NOUNS
from sightline.world.questions import CAPTION_QUESTION
from sightline.world.scenes import stream

_SEED = 99


def sentences(scenes: int = 3000) -> Iterator[str]:
    """Questions, answers, captions and turn markers, with the spacing they have in a prompt."""
    rng = np.random.default_rng(_SEED)
    for scene in stream(_SEED, scenes):
        yield f"Reference: {captions.faithful(scene)}\n"
        yield f" {captions.annotated(scene, rng)}"
        asked = [
            questions.existence(scene, noun) for noun in (*scene.objects, NOUNS[rng.integers(len(NOUNS))])
        ]
        attributes = (
            questions.color(scene, rng),
            questions.count(scene, rng),
            questions.relation(scene, rng),
        )
        for question in (*asked, *(q for q in attributes if q)):
            yield question.text
            yield f" {question.answer}"
        yield "\nAssistant:"
        yield "User:"
        yield CAPTION_QUESTION
