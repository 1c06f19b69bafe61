"""What the reference VLM is shown, and when: the data side of its pre-training.

Every scene becomes one packed sequence (`branches`): the image is the prefix, and each
question with its answer is a branch. The share of each kind of branch changes by phase,
because existence is learnt only when it dominates at first, and is not learnt at all from
an even mixture. This file knows texts and token ids, not models.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from sightline.models.reference import IMAGE_TOKENS
from sightline.training.branches import Packed, pack
from sightline.world import captions, questions, references
from sightline.world.nouns import COLORS, NOUNS
from sightline.world.questions import CAPTION_QUESTION, Question
from sightline.world.render import render
from sightline.world.scenes import IMAGE_SIZE, Scene, sample

WORDS = (*NOUNS, *COLORS)
"""What the vision warm-up tells apart."""

Encode = Callable[[str], list[int]]


@dataclass(frozen=True, slots=True)
class Phase:
    """A stretch of the training: how many branches of each kind a scene has, and how fast to learn."""

    name: str
    until: float
    """Share of all steps at which the phase ends, 0 to 1."""
    existence: int
    attributes: int
    captions: int
    references: int
    """Existence questions below a `Reference:` text."""
    fog: float = 0.0
    """Share of scenes that are not to be seen at all and asked about below references only.
    Where the picture suffices a model never learns to read; in fog it must."""
    lr: tuple[float, float] = (1.0, 1.0)
    """The learning rate at its start and its end, as factors of the peak; a straight line between."""


PHASES = (
    Phase("existence", 0.25, existence=10, attributes=2, captions=0, references=0, lr=(1.0, 0.82)),
    Phase("mixture", 0.48, existence=6, attributes=4, captions=1, references=0, lr=(0.82, 0.4)),
    Phase("attributes", 0.64, existence=3, attributes=8, captions=0, references=0, lr=(1.0, 0.8)),
    Phase("references", 0.84, existence=2, attributes=2, captions=1, references=3, lr=(0.8, 0.2)),
    Phase("fog", 1.00, existence=3, attributes=1, captions=1, references=1, fog=0.5, lr=(0.8, 0.02)),
)
_FOG = Phase("in the fog", 1.0, existence=0, attributes=0, captions=0, references=4)
REFERENCE_ODDS = {"true": 0.8, "unrelated": 0.1, "misleading": 0.1}
"""What stands under `Reference:` in training: mostly the truth, so the model comes to trust it."""


def phase_at(step: int, steps: int) -> Phase:
    """The phase of step `step` of `steps`."""
    return next(phase for phase in PHASES if step < phase.until * steps or phase is PHASES[-1])


def learning_rate(step: int, steps: int) -> float:
    """The learning rate of a step as a factor of the peak; the first 3% of the steps rise from 0."""
    phase = phase_at(step, steps)
    begin = max((p.until for p in PHASES if p.until < phase.until), default=0.0)
    way = (step / steps - begin) / (phase.until - begin)
    first, last = phase.lr
    return (first + (last - first) * way) * min(1.0, (step + 1) / (0.03 * steps))


@dataclass(frozen=True, slots=True)
class Batch:
    """One packed sequence a picture. W words: the nouns, then the colours."""

    sequences: list[Packed]
    pixels_B3SS: np.ndarray
    """In [-1, 1], as the processor gives them."""
    shown_BPW: np.ndarray
    """1.0 where image token P shows something of word W."""


class Curriculum:
    """Packs scenes into training sequences; deterministic in (seed, index).

    `encode` maps text to token ids without special tokens; `prefix` are the ids of the
    opening turn up to and including the image; `middle` those between question and
    answer; `end` those after the answer.
    """

    def __init__(self, encode: Encode, prefix: list[int], middle: list[int], end: list[int]):
        self._encode, self._prefix, self._middle, self._end = encode, prefix, middle, end
        self._known: dict[str, list[int]] = {}

    def batch(self, seed: int, indices: range, phase: Phase) -> Batch:
        """The sequences of some scenes of a stream, with their pictures."""
        scenes = [sample(seed, index) for index in indices]
        rngs = [np.random.default_rng([*scene.seed, 5]) for scene in scenes]
        foggy = [phase.fog > 0 and rng.random() < phase.fog for rng in rngs]
        asked = [
            self.ask(scene, rng, _FOG if in_fog else phase)
            for scene, rng, in_fog in zip(scenes, rngs, foggy, strict=True)
        ]
        return Batch(
            sequences=[self.pack(of_scene) for of_scene in asked],
            pixels_B3SS=np.where(np.array(foggy)[:, None, None, None], _fog(scenes), pixels(scenes)),
            shown_BPW=np.stack([shown(scene) for scene in scenes]),
        )

    def ask(self, scene: Scene, rng: np.random.Generator, phase: Phase) -> list[tuple[str, str]]:
        """The (question, answer) texts of one scene."""
        asked = [(q.text, q.answer) for q in _existence(scene, rng, phase.existence)]
        attributes: list[Question | None] = [
            maker(scene, rng)
            for _, maker in zip(range(phase.attributes), _attribute_makers(rng), strict=False)
        ]
        asked += [(q.text, q.answer) for q in attributes if q]
        asked += [(CAPTION_QUESTION, captions.annotated(scene, rng)) for _ in range(phase.captions)]
        for question in _existence(scene, rng, phase.references):
            asked.append((f"Reference: {_reference(scene, question, rng)}\n{question.text}", question.answer))
        return asked

    def pack(self, asked: list[tuple[str, str]]) -> Packed:
        """The image, then a branch a question; only answers and turn ends are scored."""
        prompts = [self._ids(question) + self._middle for question, _ in asked]
        answers = [self._ids(" " + answer) + self._end for _, answer in asked]
        branches = [prompt + answer for prompt, answer in zip(prompts, answers, strict=True)]
        return pack(self._prefix, branches, scored_from=[len(prompt) for prompt in prompts])

    def _ids(self, text: str) -> list[int]:
        if len(text) > 60:  # captions and references hardly ever come back
            return self._encode(text)
        if text not in self._known:
            self._known[text] = self._encode(text)
        return self._known[text]


def _reference(scene: Scene, question: Question, rng: np.random.Generator) -> str:
    kind = rng.choice(references.KINDS, p=[REFERENCE_ODDS[kind] for kind in references.KINDS])
    return references.write(scene, question, kind, rng)


def pixels(scenes: list[Scene]) -> np.ndarray:
    """Pictures as the processor would give them: (B, 3, S, S) float32 in [-1, 1]."""
    images = np.stack([np.asarray(render(scene)) for scene in scenes])
    return (images.transpose(0, 3, 1, 2).astype(np.float32) / 255 - 0.5) / 0.5


def _fog(scenes: list[Scene]) -> np.ndarray:
    """Pictures (B, 3, S, S) of noise alone."""
    rngs = [np.random.default_rng([*scene.seed, 7]) for scene in scenes]
    shape = (3, IMAGE_SIZE, IMAGE_SIZE)
    return np.stack([rng.uniform(-1, 1, shape).astype(np.float32) for rng in rngs])


def shown(scene: Scene) -> np.ndarray:
    """Which words (W: the nouns, then the colours) each image token (P, row by row) shows something of.

    A token shows an icon if that covers 40% of the token's cell, or 40% of the icon lies in it.
    """
    cell = IMAGE_SIZE / IMAGE_TOKENS**0.5
    edges = np.arange(0, IMAGE_SIZE, cell)
    shown_PW = np.zeros((IMAGE_TOKENS, len(WORDS)), dtype=np.float32)
    for item in scene.items:
        low_2C = np.maximum(edges, np.array([[item.y], [item.x]]) - item.size / 2)
        high_2C = np.minimum(edges + cell, np.array([[item.y], [item.x]]) + item.size / 2)
        covered_2C = (high_2C - low_2C).clip(0)  # pixels of each row, and of each column, of cells
        tokens = np.outer(*covered_2C).ravel() >= 0.4 * min(cell, item.size) ** 2
        shown_PW[np.ix_(tokens, [WORDS.index(item.noun), WORDS.index(item.color)])] = 1.0
    return shown_PW


def _existence(scene: Scene, rng: np.random.Generator, count: int) -> list[Question]:
    """`count` questions: as many present as absent nouns, as far as there are enough."""
    order = rng.permutation(len(scene.objects))
    there = [scene.objects[i] for i in order][: (count + int(rng.integers(2))) // 2]
    nouns = there + questions.random_absent(scene, rng, count - len(there))
    return [questions.existence(scene, noun) for noun in nouns]


def _attribute_makers(rng: np.random.Generator) -> Iterator[Callable[..., Question | None]]:
    """Colour, count and relation in turn, from a random start; colour twice as often."""
    makers = (questions.color, questions.count, questions.color, questions.relation)
    start = int(rng.integers(4))
    while True:
        yield makers[start % 4]
        start += 1
