"""Which examples a benchmark's report shows: where the methods help most, and where they harm most.

Right and wrong, and which words are wrong, as `examples` judges them. Equal answers of several
rows are shown once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sightline.evaluation.examples import wrong_spans
from sightline.evaluation.matrix import Side
from sightline.evaluation.predictions import Prediction
from sightline.evaluation.published import Published
from sightline.metrics import short_answer
from sightline.metrics.objects import Lexicon

SORTS = ("helped", "harmed", "never right")
"""What became of greedy's answer under the methods, in the order of the page."""
_SHARES = {"helped": 0.5, "harmed": 0.25, "never right": 0.25}


def choose(
    sides: Sequence[Side],
    *,
    count: int,
    lexicon: Lexicon,
    parser: str,
    published: Published | None = None,
) -> list[dict[str, Any]]:
    """At most `count` examples of one model and dataset, each of another image.

    The best: wrong under greedy, right under the most methods. The worst: right under greedy,
    wrong under the most, and those that no row gets right. Captions and questions take turns.
    Each is {example_id, image_id, image_uri, dataset, benchmark, kind, question, truth, objects,
    sort, right, of, answers}; an answer is {rows, text, wrong: [[start, end], ...]}.
    """
    baseline = [side for side in sides if side.is_baseline]
    methods = [side for side in sides if not side.is_baseline]
    if not baseline or not methods or count < 1:
        return []
    rows = {side.row: {p.example.example_id: p for p in side.matched.predictions} for side in sides}
    truths: dict[str, set[str]] = {}
    for prediction in baseline[0].matched.predictions:
        truths.setdefault(prediction.benchmark, set()).add(short_answer.normalise(prediction.example.answer))
    piles: dict[str, list[dict[str, Any]]] = {sort: [] for sort in SORTS}
    for example_id in sorted(rows[baseline[0].row]):
        answers = {row: by_id[example_id] for row, by_id in rows.items() if example_id in by_id}
        if len(answers) == len(rows) and not any(p.error for p in answers.values()):
            vocabulary = frozenset(truths[answers[baseline[0].row].benchmark])
            spans = {p.answer: _wrong(p, lexicon, parser, vocabulary, published) for p in answers.values()}
            shown = _show(answers, baseline[0], spans)
            if shown["sort"]:
                piles[shown["sort"]].append(shown)
    return _pick(piles, count)


def _wrong(
    prediction: Prediction,
    lexicon: Lexicon,
    parser: str,
    vocabulary: frozenset[str],
    published: Published | None,
) -> list[list[int]]:
    """What is wrong in an answer, by the rules that score it."""
    own = published.wrong_spans(prediction) if published is not None else None
    return wrong_spans(prediction, lexicon, parser, vocabulary) if own is None else own


def _show(
    answers: Mapping[str, Prediction], baseline: Side, spans: Mapping[str, list[list[int]]]
) -> dict[str, Any]:
    example = answers[baseline.row].example
    groups: dict[str, dict[str, Any]] = {}
    for row, prediction in answers.items():
        if prediction.answer not in groups:
            wrong = spans[prediction.answer]
            groups[prediction.answer] = {"rows": [], "text": prediction.answer, "wrong": wrong}
        groups[prediction.answer]["rows"].append(row)
    greedy_right = not groups[answers[baseline.row].answer]["wrong"]
    right = sum(len(g["rows"]) for g in groups.values() if not g["wrong"]) - greedy_right
    methods = len(answers) - 1
    sort = ("harmed" if right < methods else "") if greedy_right else ("helped" if right else "never right")
    return {
        "example_id": example.example_id,
        "image_id": example.image_id,
        "image_uri": example.image_uri,
        "dataset": baseline.dataset,
        "benchmark": answers[baseline.row].benchmark,
        "kind": example.kind,
        "question": example.question,
        "truth": example.answer,
        "objects": list(example.objects),
        "sort": sort,
        "right": right,
        "of": methods,
        "answers": list(groups.values()),
    }


def _pick(piles: Mapping[str, list[dict[str, Any]]], count: int) -> list[dict[str, Any]]:
    """Each sort's share, the clearest cases first; where one runs out, the others fill up."""
    clearest = {
        "helped": lambda s: -s["right"],
        "harmed": lambda s: s["right"],
        "never right": lambda s: -len(s["answers"]),
    }
    waiting = {sort: _in_turns(sorted(pile, key=clearest[sort])) for sort, pile in piles.items()}
    chosen: list[dict[str, Any]] = []
    images: set[str] = set()
    for shares in (_SHARES, dict.fromkeys(SORTS, 1.0)):
        for sort in SORTS:
            wanted = round(shares[sort] * count)
            for shown in waiting[sort]:
                taken = sum(s["sort"] == sort for s in chosen)
                if len(chosen) < count and taken < wanted and shown["image_id"] not in images:
                    images.add(shown["image_id"])
                    chosen.append(shown)
    return sorted(chosen, key=lambda s: (SORTS.index(s["sort"]), s["kind"] != "caption"))


def _in_turns(pile: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Captions and questions alternate, each in its own order."""
    lanes = [[s for s in pile if (s["kind"] == "caption") == caption] for caption in (True, False)]
    mixed = []
    for i in range(max(map(len, lanes))):
        mixed += [lane[i] for lane in lanes if i < len(lane)]
    return mixed
