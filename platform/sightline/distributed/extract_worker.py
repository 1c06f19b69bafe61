"""Activations, answers and labels of questions: a Worker from example rows to feature rows.

It gets a whole shard at a time and works through it image by image: threads read, decode and
prepare the next batch's images while the model is busy, every image once for all its
questions; the model answers them (where asked to), and its activations are captured at the
chosen sites. What fails for one question goes into its `error` column. Knows no Ray.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from sightline.activations.parts import nonfinite_rows
from sightline.activations.sites import Site
from sightline.config.extract import ExtractSettings
from sightline.config.model import ModelConfig
from sightline.data.ahead import loaded_ahead
from sightline.data.images import decode_image, read_bytes
from sightline.data.tables import LABEL
from sightline.errors import DataError, ImageError, ModelError
from sightline.metrics.objects import Lexicon
from sightline.preference import judges
from sightline.records import Answer, Example

if TYPE_CHECKING:
    from sightline.models.encoding import ImageInputs
    from sightline.models.prompts import Prompt
    from sightline.models.vlm import Vlm

GIVEN = "given"
"""The column `judge` of a label that came with the data."""


@dataclass(frozen=True, slots=True)
class ExtractWorkerConfig:
    """What the Worker needs. `answers`: the model answers; `judged`: its answers become labels."""

    model: ModelConfig
    settings: ExtractSettings
    sites: tuple[str, ...]
    lexicon: Mapping[str, str]
    answers: bool
    judged: bool


@dataclass(frozen=True, slots=True)
class _Shown:
    """One image file: as the model takes it, or why not."""

    image: ImageInputs | None
    sha256: str = ""
    error: str = ""


@dataclass(frozen=True, slots=True)
class _Batch:
    """What became of some examples, in their order."""

    features: dict[str, np.ndarray]
    """Site name -> (N, D); rows of NaN where `errors` says why."""
    facts: list[dict[str, Any]]


class ExtractWorker:
    """Columns of `Example.to_row()` in; a matrix a site and a column a fact out.

    `vlm` is loaded from `config.model` unless one is handed over (in one process).
    """

    def __init__(self, config: ExtractWorkerConfig, vlm: Vlm | None = None):
        from sightline.models.vlm import Vlm

        self._settings, self._config = config.settings, config
        self._sites = tuple(Site.parse(name) for name in config.sites)
        self._judge = judges.make(config.settings.judge, Lexicon(config.lexicon))
        self._vlm = vlm or Vlm.of(config.model)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        count = len(batch["example_id"])
        examples = [Example.from_row({name: v[i] for name, v in batch.items()}) for i in range(count)]
        portions = portions_of(examples, self._settings.batch_size)
        images = loaded_ahead(
            [[example.image_uri for example in portion] for portion in portions],
            self._show,
            threads=self._settings.readers,
        )
        done = [self.extract(portion, shown) for portion, shown in zip(portions, images, strict=True)]
        facts = [row for one in done for row in one.facts]
        columns = {name: _column([row[name] for row in facts]) for name in facts[0]}
        features = {s.name: np.concatenate([one.features[s.name] for one in done]) for s in self._sites}
        return columns | features

    def extract(self, examples: Sequence[Example], shown: Mapping[str, _Shown]) -> _Batch:
        """One portion: every example's activations and facts, or its error."""
        errors = [_unusable(example, shown[example.image_uri]) for example in examples]
        answers: list[Answer | None] = [None] * len(examples)
        features = {
            site.name: np.full((len(examples), self._vlm.site_width(site)), np.nan, np.float32)
            for site in self._sites
        }
        # POPE's positives stand in all three of its files: what is asked twice is computed once.
        twins: dict[_Asked, list[int]] = {}
        for i, error in enumerate(errors):
            if not error:
                twins.setdefault(_asked(examples[i]), []).append(i)
        first = [rows[0] for rows in twins.values()]
        prompts = [_prompt(examples[i], shown[examples[i].image_uri]) for i in first]
        for rows, found, replies, error in self._attempts(first, prompts, examples):
            for place, row in enumerate(rows):
                for twin in twins[_asked(examples[row])]:
                    answers[twin], errors[twin] = replies[place] if replies else None, error
                    for name in found:
                        features[name][twin] = found[name][place]
        finite = [i for i, error in enumerate(errors) if not error]
        for place, name in nonfinite_rows({n: matrix[finite] for n, matrix in features.items()}).items():
            errors[finite[place]] = f"the model's activations at {name} hold NaN or infinity"
        facts = [
            self._facts(example, shown[example.image_uri], answer, error)
            for example, answer, error in zip(examples, answers, errors, strict=True)
        ]
        return _Batch(features, facts)

    def _attempts(
        self, rows: list[int], prompts: list[Prompt], examples: Sequence[Example]
    ) -> list[tuple[list[int], dict[str, np.ndarray], list[Answer], str]]:
        """(rows, activations, answers, error) of each part that went through the model as one.

        A question that the model cannot take must fail alone, so the rest is asked without it.
        """
        if not rows:
            return []
        try:
            replies = self._answer(prompts, [examples[i] for i in rows]) if self._config.answers else []
            texts = [reply.text for reply in replies] or None
            found = self._vlm.capture(prompts, self._sites, texts, batch_size=self._settings.batch_size)
            return [(rows, found, replies, "")]
        except (DataError, ModelError) as error:
            if len(rows) == 1:
                return [(rows, {}, [], str(error))]
            half = len(rows) // 2
            return [
                attempt
                for part in (slice(0, half), slice(half, None))
                for attempt in self._attempts(rows[part], prompts[part], examples)
            ]

    def _answer(self, prompts: Sequence[Prompt], examples: Sequence[Example]) -> list[Answer]:
        """Greedy answers, each question under the limit of its kind."""
        settings = self._settings
        answers: dict[int, Answer] = {}
        for is_long in (False, True):
            limit = settings.max_new_tokens if is_long else settings.short_answer_tokens
            asked = [i for i, example in enumerate(examples) if (example.kind in _LONG) == is_long]
            samples = self._vlm.generate(
                [prompts[i] for i in asked], max_new_tokens=limit, batch_size=settings.batch_size
            )
            answers |= {i: sample for i, (sample,) in zip(asked, samples, strict=True)}
        return [answers[i] for i in range(len(examples))]

    def _facts(self, example: Example, shown: _Shown, answer: Answer | None, error: str) -> dict[str, Any]:
        """The columns of one row beside its features."""
        label, judge = float("nan"), ""
        if not error:
            try:
                label, judge = self._label(example, answer)
            except DataError as unjudged:
                error = str(unjudged)
        return {
            "example_id": example.example_id,
            "image_id": example.image_id,
            "image_uri": example.image_uri,
            "sha256": shown.sha256,
            "question": example.question,
            "context": example.context,
            "kind": example.kind,
            "source": example.source,
            "split": example.split,
            "truth": example.answer,
            "answer": answer.text if answer is not None else "",
            "answer_logprob": answer.logprob if answer is not None else float("nan"),
            "answer_finished": answer is not None and answer.finished,
            LABEL: label,
            "judge": judge,
            "error": error,
        }

    def _label(self, example: Example, answer: Answer | None) -> tuple[float, str]:
        """(1.0 hallucinated, 0.0 right or NaN unknown; who says so)."""
        given = example.meta.get(LABEL)
        if given is not None:
            return float(given), GIVEN
        if not self._config.judged or answer is None or not has_truth(example):
            return float("nan"), ""
        verdict = judges.check(self._judge, answer.text, example)
        return float(not verdict.right), self._settings.judge

    def _show(self, uri: str) -> _Shown:
        """Read, decode and prepare one image; runs in a thread, ahead of the model."""
        try:
            data = read_bytes(uri)
            picture = decode_image(data, uri, max_pixels=self._settings.max_pixels)
            image = self._vlm.adapter.image_inputs(self._vlm.processor, picture)
        except ImageError as error:
            return _Shown(None, error=str(error))
        except ValueError as error:  # what processors say of shapes they cannot take
            return _Shown(None, error=f"the model's processor refuses {uri}: {error}")
        return _Shown(image, hashlib.sha256(data).hexdigest())


def portions_of(examples: Sequence[Example], size: int) -> list[list[Example]]:
    """Examples in portions of about `size`; those of one image, which stand together, in one."""
    portions: list[list[Example]] = []
    for i, example in enumerate(examples):
        starts = i == 0 or example.image_uri != examples[i - 1].image_uri
        if not portions or (starts and len(portions[-1]) >= size):
            portions.append([])
        portions[-1].append(example)
    return portions


def has_truth(example: Example) -> bool:
    """Whether an answer to it can be judged at all."""
    return bool(example.answer.strip()) or (example.kind == "caption" and bool(example.objects))


_Asked = tuple[str, str, str, str]
_LONG = ("caption", "open")


def _asked(example: Example) -> _Asked:
    """Equal keys, equal activations and answers."""
    return (example.image_uri, example.question, example.context, example.kind)


def _unusable(example: Example, shown: _Shown) -> str:
    if shown.error or not example.sha256 or example.sha256 == shown.sha256:
        return shown.error
    return (
        f"expected {example.image_uri} with the SHA-256 that its row states ({example.sha256[:12]}...), "
        f"got {shown.sha256[:12]}.... The file has changed since the dataset was written."
    )


def _prompt(example: Example, shown: _Shown) -> Prompt:
    from sightline.models.prompts import Prompt

    return Prompt(shown.image, example.question, example.context)


def _column(values: list[Any]) -> np.ndarray:
    """Texts as objects, so that none is cut to a fixed width."""
    return np.asarray(values, dtype=object if isinstance(values[0], str) else None)
