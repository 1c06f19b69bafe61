"""A world dataset on disk: PNG images and `examples.jsonl`, as any user's dataset would be."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from sightline.records import Example
from sightline.world import captions, pope, questions
from sightline.world.questions import CAPTION_QUESTION, Question
from sightline.world.render import render
from sightline.world.scenes import Scene, stream

SEEDS = {"train": 11, "mine": 22, "val": 33, "test": 44}
"""The scene streams. Models are trained on `train`; results are reported on `test` alone."""


def write(folder: str | Path, *, split: str, scenes: int, seed: int = 0, start: int = 0) -> Path:
    """Render `scenes` scenes of a split's stream and write their questions; returns the JSONL's path.

    `mine` rows are what a user would have to learn from (existence, colour, count, relation
    and a caption question a scene, half of the existence negatives adversarial); `val` and
    `test` rows are the benchmarks: POPE in three splits, attributes, captions.
    """
    folder = Path(folder).absolute()
    (folder / "images").mkdir(parents=True, exist_ok=True)
    population = list(stream(SEEDS[split], scenes, start))
    asked = (
        _mining_questions(population, seed) if split in ("train", "mine") else _benchmarks(population, seed)
    )
    path = folder / "examples.jsonl"
    partial = path.with_suffix(".partial")
    with partial.open("w") as out:
        for scene, rows in zip(population, asked, strict=True):
            image_id = f"{split}-{scene.seed[1]:06d}"
            image_path = folder / "images" / f"{image_id}.png"
            render(scene).save(image_path)
            sha256 = hashlib.sha256(image_path.read_bytes()).hexdigest()
            for number, (name, question) in enumerate(rows):
                example = _example(scene, image_id, image_path, sha256, split, name, number, question)
                out.write(json.dumps(example.to_row()) + "\n")
    partial.rename(path)
    return path


def _example(
    scene: Scene,
    image_id: str,
    image_path: Path,
    sha256: str,
    split: str,
    benchmark: str,
    number: int,
    question: Question,
) -> Example:
    return Example(
        example_id=f"{image_id}/{benchmark}/{number}",
        image_id=image_id,
        image_uri=str(image_path),
        question=question.text,
        kind=question.kind,
        answer=question.answer,
        objects=scene.objects,
        sha256=sha256,
        split=benchmark,
        source="world",
        meta={"caption": captions.faithful(scene), "noun": question.noun, "stream": split},
    )


def _caption_question() -> Question:
    return Question(CAPTION_QUESTION, "", "caption")


def _benchmarks(scenes: Sequence[Scene], seed: int) -> Iterable[list[tuple[str, Question]]]:
    """POPE random, popular and adversarial, then colour, count, relation and caption."""
    editions = {name: pope.build(scenes, name, seed=seed) for name in pope.SPLITS}
    for index, scene in enumerate(scenes):
        rng = np.random.default_rng([seed, index, 3])
        rows = [(f"pope_{name}", q) for name in pope.SPLITS for q in editions[name][index]]
        yield rows + _attributes(scene, rng) + [("caption", _caption_question())]


def _mining_questions(scenes: Sequence[Scene], seed: int) -> Iterable[list[tuple[str, Question]]]:
    """Two positives and two negatives (one random, one adversarial), attributes, a caption."""
    hard = pope.build(scenes, "adversarial", seed=seed, per_image=4)
    for index, scene in enumerate(scenes):
        rng = np.random.default_rng([seed, index, 4])
        negatives = [q for q in hard[index] if q.answer == "No."]
        easy = [questions.existence(scene, noun) for noun in _other_absent(scene, negatives, rng)]
        positives = [q for q in hard[index] if q.answer == "Yes."]
        rows = [("existence", q) for q in positives + negatives[:1] + easy]
        yield rows + _attributes(scene, rng) + [("caption", _caption_question())]


def _other_absent(scene: Scene, asked: list[Question], rng: np.random.Generator) -> list[str]:
    """One random absent noun that has not been asked about."""
    taken = {q.noun for q in asked}
    return [noun for noun in questions.random_absent(scene, rng, len(taken) + 1) if noun not in taken][:1]


def _attributes(scene: Scene, rng: np.random.Generator) -> list[tuple[str, Question]]:
    found = (questions.color(scene, rng), questions.count(scene, rng), questions.relation(scene, rng))
    return [(question.kind, question) for question in found if question]
