"""What the reference VLM is shown, and when: the data side of its pre-training.

Every scene becomes one packed sequence (`branches`): the image is the prefix, and each
question with its answer is a branch. The share of each kind of branch changes by phase,
because existence is learnt only when it dominates at first, and is not learnt at all from
an even mixture. This file knows texts and token ids, not models.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import cycle, islice

import numpy as np

from sightline.models.reference import IMAGE_TOKENS
from sightline.training.branches import Packed, pack
from sightline.world import captions, questions, references
from sightline.world.nouns import COLORS, NOUNS
from sightline.world.questions import CAPTION_QUESTION, Question
from sightline.world.render import render
from sightline.world.scenes import IMAGE_SIZE, Scene, clearer, sample

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
    attributes: int = 0
    captions: int = 0
    referenced: float = 0.0
    """Share of scenes whose questions stand below a `Reference:` text."""
    fog: float = 0.0
    """Share of the referenced scenes that are not to be seen at all, only to be read about.
    Where the picture suffices a model never learns to read; in fog it must."""
    lr: tuple[float, float] = (1.0, 1.0)
    """The learning rate at its start and its end, as factors of the peak; a straight line between."""


PHASES = (
    Phase("existence", 0.15, existence=10, attributes=2, referenced=0.2, fog=0.5),
    Phase("mixture", 0.38, existence=6, attributes=5, captions=1, referenced=0.2, fog=0.4, lr=(1.0, 0.5)),
    Phase("attributes", 0.53, existence=3, attributes=9, referenced=0.2, fog=0.4, lr=(1.0, 0.8)),
    Phase("all", 0.82, existence=5, attributes=5, captions=1, referenced=0.4, fog=0.4, lr=(0.8, 0.02)),
    Phase("captions", 1.0, existence=4, attributes=3, captions=1, referenced=0.3, fog=0.3, lr=(0.6, 0.02)),
)
READING = Phase("reading", 1.0, existence=8, referenced=1.0)
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

    `encode` maps text to token ids without special tokens; `opening` are the ids of the
    user's turn before the image, `image` those of the image; `middle` those between question
    and answer; `end` those after the answer.
    """

    def __init__(
        self, encode: Encode, opening: list[int], image: list[int], middle: list[int], end: list[int]
    ):
        self._encode, self._opening, self._image = encode, opening, image
        self._middle, self._end = middle, end
        self._known: dict[str, list[int]] = {}

    def batch(self, seed: int, indices: range, phase: Phase, clarity: float = 0.0) -> Batch:
        """The sequences of some scenes of a stream, with their pictures, made clearer by a share."""
        scenes = [clearer(sample(seed, index), clarity) for index in indices]
        rngs = [_rng(scene) for scene in scenes]
        referenced = [rng.random() < phase.referenced for rng in rngs]
        foggy = [read and rng.random() < phase.fog for read, rng in zip(referenced, rngs, strict=True)]
        sequences = []
        for scene, rng, below_reference, in_fog in zip(scenes, rngs, referenced, foggy, strict=True):
            asked = self.ask(scene, rng, phase, seen=not in_fog)
            reference = _reference(scene, rng) if below_reference else ""
            sequences.append(self.pack(asked, reference))
        return Batch(
            sequences=sequences,
            pixels_B3SS=np.where(np.array(foggy)[:, None, None, None], _fog(scenes), pixels(scenes)),
            shown_BPW=np.stack([shown(scene) for scene in scenes]),
        )

    def texts(self, seed: int, indices: range) -> list[Packed]:
        """Sequences without an image: questions about a true reference, for a model that learns to read."""
        sequences = []
        for index in indices:
            scene = sample(seed, index)
            asked = self.ask(scene, _rng(scene), READING, seen=False)
            sequences.append(self.pack(asked, captions.faithful(scene), with_image=False))
        return sequences

    def ask(
        self, scene: Scene, rng: np.random.Generator, phase: Phase, seen: bool = True
    ) -> list[tuple[str, str]]:
        """The (question, answer) texts of one scene; unless it is seen, only what captions tell."""
        asked = [(q.text, q.answer) for q in _existence(scene, rng, phase.existence)]
        attributes: list[Question | None] = [
            maker(scene, rng)
            for _, maker in zip(range(phase.attributes), _attribute_makers(rng, seen), strict=False)
        ]
        asked += [(q.text, q.answer) for q in attributes if q]
        asked += [(CAPTION_QUESTION, captions.annotated(scene, rng)) for _ in range(phase.captions)]
        return asked

    def pack(self, asked: list[tuple[str, str]], reference: str = "", with_image: bool = True) -> Packed:
        """The image and the reference, then a branch a question; only answers and turn ends are scored."""
        prefix = self._opening + (self._image if with_image else [])
        if reference:
            prefix = prefix + self._ids(f"Reference: {reference}\n")
        prompts = [self._ids(question) + self._middle for question, _ in asked]
        answers = [self._ids(" " + answer) + self._end for _, answer in asked]
        branches = [prompt + answer for prompt, answer in zip(prompts, answers, strict=True)]
        return pack(prefix, branches, scored_from=[len(prompt) for prompt in prompts])

    def _ids(self, text: str) -> list[int]:
        if len(text) > 60:  # captions and references hardly ever come back
            return self._encode(text)
        if text not in self._known:
            self._known[text] = self._encode(text)
        return self._known[text]


def _rng(scene: Scene) -> np.random.Generator:
    return np.random.default_rng([*scene.seed, 5])


def _reference(scene: Scene, rng: np.random.Generator) -> str:
    """A reference text; a misleading one is wrong about a noun drawn at random."""
    kind = rng.choice(references.KINDS, p=[REFERENCE_ODDS[kind] for kind in references.KINDS])
    return references.write(scene, _existence(scene, rng, 2)[int(rng.integers(2))], kind, rng)


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


def _attribute_makers(rng: np.random.Generator, seen: bool) -> Iterator[Callable[..., Question | None]]:
    """Makers of questions in turn, from a random start. Captions tell colours and counts, no relations."""
    color, count, relation = questions.color, questions.count, questions.relation
    makers = (color, relation, color, relation, count) if seen else (color, color, count)
    return islice(cycle(makers), int(rng.integers(len(makers))), None)
