"""A world dataset on disk: PNG images and `examples.jsonl`, as any user's dataset would be."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from sightline.records import Example
from sightline.world import captions, pope, questions, references
from sightline.world.questions import CAPTION_QUESTION, Question
from sightline.world.render import render
from sightline.world.scenes import Scene, stream

SEEDS = {"train": 11, "mine": 22, "val": 33, "test": 44}
"""The scene streams. Models are trained on `train`; results are reported on `test` alone."""
_SEED_STRIDE = 100
"""Streams of the same split with other seeds lie this far apart, hence never meet another split's."""


Asked = tuple[str, Question, str]
"""Which benchmark a question belongs to, the question, and the text shown as `Reference:`."""


def write(
    folder: str | Path, *, split: str, scenes: int, seed: int = 0, with_references: bool = False
) -> Path:
    """Render `scenes` scenes of a split's stream and write their questions; returns the JSONL's path.

    `mine` rows are what a user would have to learn from (existence, colour, count, relation
    and a caption question a scene, half of the existence negatives adversarial); `val` and
    `test` rows are the benchmarks: POPE in three splits, attributes, captions; and,
    `with_references`, the same existence questions without a reference, with a true, an
    unrelated and a misleading one. Another `seed` is other scenes.
    """
    folder = Path(folder).absolute()
    (folder / "images").mkdir(parents=True, exist_ok=True)
    population = scenes_of(split, scenes, seed)
    ask = _mining_questions if split in ("train", "mine") else _benchmarks
    asked = list(ask(population, seed))
    if with_references:
        asked = [rows + more for rows, more in zip(asked, _referenced(population, seed), strict=True)]
    path = folder / "examples.jsonl"
    partial = path.with_suffix(".partial")
    with partial.open("w") as out:
        for scene, rows in zip(population, asked, strict=True):
            image_id = f"{split}-{seed}-{scene.seed[1]:06d}"
            image_path = folder / "images" / f"{image_id}.png"
            render(scene).save(image_path)
            sha256 = hashlib.sha256(image_path.read_bytes()).hexdigest()
            for number, asked_one in enumerate(rows):
                example = _example(scene, image_id, image_path, sha256, split, number, asked_one)
                out.write(json.dumps(example.to_row()) + "\n")
    partial.rename(path)
    return path


def scenes_of(split: str, count: int, seed: int = 0) -> list[Scene]:
    """The first `count` scenes of a split's stream, in the order in which `write` writes them."""
    return list(stream(SEEDS[split] + _SEED_STRIDE * seed, count))


def _example(
    scene: Scene,
    image_id: str,
    image_path: Path,
    sha256: str,
    split: str,
    number: int,
    asked: Asked,
) -> Example:
    benchmark, question, context = asked
    return Example(
        example_id=f"{image_id}/{benchmark}/{number}",
        image_id=image_id,
        image_uri=str(image_path),
        question=question.text,
        kind=question.kind,
        answer=question.answer,
        objects=scene.objects,
        context=context,
        sha256=sha256,
        split=benchmark,
        source="world",
        meta={"caption": captions.faithful(scene), "noun": question.noun, "stream": split},
    )


def _benchmarks(scenes: Sequence[Scene], seed: int) -> Iterable[list[Asked]]:
    """POPE random, popular and adversarial, then colour, count, relation and caption."""
    editions = {name: pope.build(scenes, name, seed=seed) for name in pope.SPLITS}
    for index, scene in enumerate(scenes):
        rng = np.random.default_rng([seed, index, 3])
        rows = [(f"pope_{name}", q, "") for name in pope.SPLITS for q in editions[name][index]]
        yield rows + _open_questions(scene, rng)


def _mining_questions(scenes: Sequence[Scene], seed: int) -> Iterable[list[Asked]]:
    """Two positives and two negatives (one adversarial, one random), attributes, a caption."""
    hard = pope.build(scenes, "adversarial", seed=seed, per_image=4)
    for index, scene in enumerate(scenes):
        rng = np.random.default_rng([seed, index, 4])
        negative = next(q for q in hard[index] if q.answer == "No.")
        absent = questions.random_absent(scene, rng, 2)
        easy = questions.existence(scene, next(noun for noun in absent if noun != negative.noun))
        positives = [q for q in hard[index] if q.answer == "Yes."]
        rows = [("existence", q, "") for q in (*positives, negative, easy)]
        yield rows + _open_questions(scene, rng)


def _referenced(scenes: Sequence[Scene], seed: int) -> Iterable[list[Asked]]:
    """One positive and one adversarial negative under no reference and under each kind."""
    for index, asked in enumerate(pope.build(scenes, "adversarial", seed=seed, per_image=2)):
        rng = np.random.default_rng([seed, index, 6])
        rows = [("reference_none", q, "") for q in asked]
        for kind in references.KINDS:
            texts = [references.write(scenes[index], q, kind, rng) for q in asked]
            rows += [(f"reference_{kind}", q, text) for q, text in zip(asked, texts, strict=True)]
        yield rows


def _open_questions(scene: Scene, rng: np.random.Generator) -> list[Asked]:
    found = (questions.color(scene, rng), questions.count(scene, rng), questions.relation(scene, rng))
    rows = [(question.kind, question, "") for question in found if question]
    return [*rows, ("caption", Question(CAPTION_QUESTION, "", "caption"), "")]
