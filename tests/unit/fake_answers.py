"""Made-up answers of several rows to a handful of questions, for tests of what comes after answering."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace

from sightline.evaluation.answers import Answered, Matched, match_answers
from sightline.evaluation.fairness import Conditions, hash_items, hash_prompt
from sightline.evaluation.matrix import Side
from sightline.records import Example

LEXICON = {"dog": "dog", "cat": "cat"}


def questions(count: int = 12) -> list[Example]:
    """Of each image whether there is a cat (there is none), and what it shows (a dog)."""
    rows = []
    for i in range(count):
        shown = {"image_id": f"image-{i}", "image_uri": f"/none/{i}.png", "objects": ("dog",)}
        asked = {"question": "Is there a cat?", "kind": "yes_no", "answer": "No."}
        rows.append(Example(f"p{i}", **asked, split="pope_adversarial", **shown))
        rows.append(Example(f"c{i}", question="Describe.", kind="caption", split="caption", **shown))
    return rows


def conditions(row: str, examples: Sequence[Example], **changes: object) -> Conditions:
    told = Conditions(
        row=row,
        mitigations=row,
        dataset="tiny",
        items=hash_items(examples),
        asked=len(examples),
        model="m" * 32,
        max_new_tokens=8,
        short_answer_tokens=4,
        batch_size=2,
        seed=0,
        software=("torch 2.13.0",),
    )
    return replace(told, **changes)


def answers(examples: Sequence[Example], *, wrong: int, ms: float = 2.0) -> list[Answered]:
    """The first `wrong` yeses and captions with a cat; a caption costs 10 tokens of `ms` each."""
    found = []
    for i, example in enumerate(examples):
        bad = i // 2 < wrong
        text = ("Yes." if bad else "No.") if example.kind == "yes_no" else "A dog" + " and a cat" * bad
        tokens = 2 if example.kind == "yes_no" else 10
        cost = {"tokens": tokens, "seconds": tokens * ms / 1000, "passes": 1.5 * tokens, "peak_mib": 30.0 + i}
        found.append(
            Answered(example.example_id, hash_prompt(example), text, **cost, numerics="cpu float32 sdpa")
        )
    return found


def lines(told: Conditions, given: Sequence[Answered]) -> str:
    """What `write_answers` would write."""
    return "".join(json.dumps(asdict(a) | {"conditions": told.digest}) + "\n" for a in given)


def matched(
    row: str, examples: Sequence[Example], *, wrong: int, ms: float = 2.0, **changes: object
) -> Matched:
    told = conditions(row, examples, **changes)
    return match_answers(lines(told, answers(examples, wrong=wrong, ms=ms)), told, examples)


def side(row: str, examples: Sequence[Example], *, wrong: int, **more: object) -> Side:
    return Side("model", row, "tiny", matched(row, examples, wrong=wrong, **more))
