"""Choose what a reader should see: answers that changed, for the better and the worse.

Only right and wrong are judged here, with the spans that are wrong; how they look is
the page's business.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sightline.evaluation.predictions import Prediction
from sightline.metrics import short_answer, yes_no
from sightline.metrics.objects import Lexicon, check_caption

OUTCOMES = ("fixed", "broken", "still wrong", "right")
"""What happened to an answer, in the order of interest."""

_SHARES = {"fixed": 0.6, "broken": 0.2, "still wrong": 0.2, "right": 0.0}
_TURNS = ("caption", "yes_no", "caption", "yes_no", "other")


def choose(
    before: Sequence[Prediction],
    after: Sequence[Prediction],
    *,
    count: int,
    lexicon: Lexicon | Mapping[str, str],
    parser: str = "strict",
) -> list[dict[str, Any]]:
    """At most `count` examples, each of another image, in a fixed choice for the same answers.

    About 6 in 10 were wrong and are right now, 2 went the other way, 2 stay wrong; where one
    sort runs out, the next fills up. Captions and questions take turns. Each is
    {example_id, image_id, image_uri, benchmark, kind, question, truth, objects, outcome, before, after};
    the sides are {text, wrong: [[start, end], ...]}.
    """
    words = lexicon if isinstance(lexicon, Lexicon) else Lexicon(lexicon)
    later = {p.example.example_id: p for p in after}
    truths: dict[str, set[str]] = {}
    for prediction in before:
        truths.setdefault(prediction.benchmark, set()).add(short_answer.normalise(prediction.example.answer))
    piles: dict[str, list[dict[str, Any]]] = {outcome: [] for outcome in OUTCOMES}
    for prediction in sorted(before, key=lambda p: p.example.example_id):
        other = later.get(prediction.example.example_id)
        if other is None or prediction.error or other.error:
            continue
        shown = _show(prediction, other, words, parser, frozenset(truths[prediction.benchmark]))
        piles[shown["outcome"]].append(shown)
    return _pick({outcome: _interleave(pile) for outcome, pile in piles.items()}, count)


def wrong_spans(
    prediction: Prediction, lexicon: Lexicon, parser: str, vocabulary: frozenset[str] = frozenset()
) -> list[list[int]]:
    """[start, end) of every wrong piece of the answer; the whole answer where it is one piece.

    `vocabulary` holds the normalised true answers of the benchmark, as scoring uses them.
    """
    example, answer = prediction.example, prediction.answer
    if example.kind == "caption":
        return [[m.start, m.end] for m in check_caption(answer, example.objects, lexicon).invented]
    truth = yes_no.parse(example.answer, "strict")
    if example.kind in ("yes_no", "relation") and truth != "unparsed":
        right = yes_no.parse(answer, parser, truth == "yes") == truth
    else:
        right = short_answer.equal(answer, example.answer) or short_answer.holds_only(
            answer, example.answer, vocabulary
        )
    return [] if right else [[0, len(answer)]]


def _show(
    before: Prediction, after: Prediction, lexicon: Lexicon, parser: str, vocabulary: frozenset[str]
) -> dict[str, Any]:
    example = before.example
    sides = [
        {"text": p.answer, "wrong": wrong_spans(p, lexicon, parser, vocabulary)} for p in (before, after)
    ]
    was_wrong, is_wrong = (bool(side["wrong"]) for side in sides)
    outcome = {(True, False): "fixed", (False, True): "broken", (True, True): "still wrong"}.get(
        (was_wrong, is_wrong), "right"
    )
    return {
        "example_id": example.example_id,
        "image_id": example.image_id,
        "image_uri": example.image_uri,
        "benchmark": before.benchmark,
        "kind": example.kind,
        "question": example.question,
        "truth": example.answer,
        "objects": list(example.objects),
        "outcome": outcome,
        "before": sides[0],
        "after": sides[1],
    }


def _interleave(pile: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Captions and yes/no questions in turn, now and then another kind; what is left over follows."""
    lanes: dict[str, list[dict[str, Any]]] = {lane: [] for lane in _TURNS}
    for shown in pile:
        lanes[shown["kind"] if shown["kind"] in lanes else "other"].append(shown)
    for lane in lanes.values():
        lane.reverse()
    mixed = []
    while any(lanes.values()):
        mixed += [lanes[lane].pop() for lane in _TURNS if lanes[lane]]
    return mixed


def _pick(piles: dict[str, list[dict[str, Any]]], count: int) -> list[dict[str, Any]]:
    chosen: dict[str, list[dict[str, Any]]] = {outcome: [] for outcome in OUTCOMES}
    images: set[str] = set()
    # First every outcome's own share, then whatever is left, in order of interest.
    for shares in (_SHARES, dict.fromkeys(OUTCOMES, 1.0)):
        for outcome in OUTCOMES:
            wanted = round(shares[outcome] * count)
            for shown in piles[outcome]:
                full = sum(map(len, chosen.values())) >= count or len(chosen[outcome]) >= wanted
                if full:
                    break
                if shown["image_id"] not in images:
                    images.add(shown["image_id"])
                    chosen[outcome].append(shown)
    return [
        shown
        for outcome in OUTCOMES
        for shown in sorted(chosen[outcome], key=lambda s: (s["kind"] != "caption", s["benchmark"]))
    ]
