"""Scenes: which icons lie where. Sampled from a seed, so a scene is its (seed, index).

Errors should be natural, so icons are small, overlap, are cut by the edge and low in
contrast. An object counts as present only if at least half of its box is uncovered
and inside the picture, which keeps the truth defensible.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from sightline.world.nouns import COLORS, COMPANIONS, CONTEXTS, NOUNS

IMAGE_SIZE = 96
"""Side of a scene in pixels."""
LATTICE = 12
"""Icons' corners lie this many pixels apart, the reference VLM's patch size. A vision tower this
small and this briefly trained learns shapes only if it meets the same pixels often: on the
lattice it began to tell nouns apart after 13,000 scenes, off it not within 38,000."""
SIZES = (18, 24, 36)
"""Sides of the icons' boxes in pixels."""

_COUNT_ODDS = {2: 0.16, 3: 0.24, 4: 0.24, 5: 0.18, 6: 0.11, 7: 0.07}
_COMPANION_ODDS, _CONTEXT_ODDS, _REPEAT_ODDS = 0.38, 0.40, 0.10
_MIN_VISIBLE = 0.55
_PLACEMENT_TRIES = 30


@dataclass(frozen=True, slots=True)
class Item:
    """One icon: `x`, `y` is the centre and `size` the side of its box, in pixels.

    `strength` (0 to 1) is its contrast: 1 is the pure colour, 0 the ground.
    """

    noun: str
    color: str
    x: int
    y: int
    size: int
    strength: float


@dataclass(frozen=True, slots=True)
class Scene:
    """What is to be seen, back to front, and the seed of its noise."""

    context: str
    items: tuple[Item, ...]
    noise: int
    seed: tuple[int, int]

    @property
    def objects(self) -> tuple[str, ...]:
        """The distinct nouns present, in order of first appearance by size."""
        by_size = sorted(self.items, key=lambda item: -item.size)
        return tuple(dict.fromkeys(item.noun for item in by_size))

    def of(self, noun: str) -> list[Item]:
        return [item for item in self.items if item.noun == noun]


def sample(seed: int, index: int) -> Scene:
    """The scene number `index` of the stream `seed`; always the same one."""
    rng = np.random.default_rng([seed, index])
    context = list(CONTEXTS)[rng.integers(len(CONTEXTS))]
    count = int(rng.choice(list(_COUNT_ODDS), p=list(_COUNT_ODDS.values())))
    boxes: list[tuple[int, int, int]] = []
    for _ in range(count):
        box = _place(rng, boxes)
        if box is not None:
            boxes.append(box)
    nouns = _sample_nouns(rng, context, len(boxes))
    colors = rng.choice(list(COLORS), size=len(boxes))
    strengths = rng.uniform(0.2, 1.0, size=len(boxes))
    items = tuple(
        Item(noun, str(color), *box, strength=round(float(strength), 3))
        for noun, color, box, strength in zip(nouns, colors, boxes, strengths, strict=True)
    )
    return Scene(context, items, noise=int(rng.integers(24, 97)), seed=(seed, index))


def clearer(scene: Scene, share: float) -> Scene:
    """The same scene with that share of its noise and of its missing contrast taken away (1 = all)."""
    items = tuple(replace(item, strength=item.strength + share * (1 - item.strength)) for item in scene.items)
    return replace(scene, items=items, noise=round((1 - share) * scene.noise))


def stream(seed: int, count: int, start: int = 0) -> Iterator[Scene]:
    """Scenes `start` to `start + count - 1` of the stream `seed`."""
    return (sample(seed, index) for index in range(start, start + count))


@cache
def _context_odds(context: str) -> np.ndarray:
    """Zipf-like odds of a context's nouns: the first is the most popular."""
    odds = 1 / np.sqrt(np.arange(1, len(CONTEXTS[context]) + 1))
    return odds / odds.sum()


def _sample_nouns(rng: np.random.Generator, context: str, count: int) -> list[str]:
    """Nouns with co-occurrence: the context's own, companions of what is there, strays."""
    nouns: list[str] = []
    while len(nouns) < count:
        draw = rng.random()
        missing = [c for n in nouns if (c := COMPANIONS.get(n)) and c not in nouns]
        if missing and draw < _COMPANION_ODDS:
            nouns.append(missing[rng.integers(len(missing))])
        elif nouns and draw > 1 - _REPEAT_ODDS:
            nouns.append(nouns[rng.integers(len(nouns))])
        elif draw < _COMPANION_ODDS + _CONTEXT_ODDS:
            nouns.append(str(rng.choice(CONTEXTS[context], p=_context_odds(context))))
        else:
            nouns.append(NOUNS[rng.integers(len(NOUNS))])
    return nouns


def _place(rng: np.random.Generator, boxes: list[tuple[int, int, int]]) -> tuple[int, int, int] | None:
    """A box (x, y, size) that leaves every box visible enough, or None if there is no room."""
    for _ in range(_PLACEMENT_TRIES):
        size = int(rng.choice(SIZES))
        cells = (IMAGE_SIZE - size) // LATTICE + 3  # one of them beyond either edge
        x, y = (int(cell - 1) * LATTICE + size // 2 for cell in rng.integers(cells, size=2))
        candidate = [*boxes, (x, y, size)]
        if all(_visible(candidate, i) >= _MIN_VISIBLE for i in range(len(candidate))):
            return x, y, size
    return None


def _visible(boxes: list[tuple[int, int, int]], index: int) -> float:
    """Lower bound of the share of box `index` inside the picture and not under later boxes."""
    left, top, right, bottom = _edges(boxes[index])
    area = (right - left) * (bottom - top)
    seen = max(0, min(right, IMAGE_SIZE) - max(left, 0)) * max(0, min(bottom, IMAGE_SIZE) - max(top, 0))
    for other in boxes[index + 1 :]:
        o_left, o_top, o_right, o_bottom = _edges(other)
        seen -= max(0, min(right, o_right) - max(left, o_left)) * max(
            0, min(bottom, o_bottom) - max(top, o_top)
        )
    return seen / area


def _edges(box: tuple[int, int, int]) -> tuple[int, int, int, int]:
    x, y, size = box
    left, top = x - size // 2, y - size // 2
    return left, top, left + size, top + size
