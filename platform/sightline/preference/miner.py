"""Mine pairs from a model's own answers: a Worker from example rows to finding rows.

For each example the model answers with the image and the retrieved context, with a wrong
image and the context, and with the image alone; captions are sampled several times. All
of it goes to the model in one call per batch, with one PIL object an image, so that an
image is encoded once and shared beginnings of prompts are computed once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from sightline.config.mining import MineSettings
from sightline.config.model import ModelConfig
from sightline.errors import DataError, ModelError
from sightline.metrics.objects import Lexicon
from sightline.preference import captions, conditions, judges
from sightline.preference.conditions import Attempt, Finding, Source
from sightline.preference.gallery import Gallery, Shown, Task
from sightline.records import Answer, Example, PreferencePair

if TYPE_CHECKING:
    from PIL import Image

    from sightline.models.prompts import Prompt
    from sightline.models.vlm import Vlm

SHORT_RULES = tuple(conditions.RULES)


@dataclass(frozen=True, slots=True)
class MinerConfig:
    """What the Worker needs: the model, the rules, and the words that name objects."""

    model: ModelConfig
    mining: MineSettings
    lexicon: Mapping[str, str]
    """Surface form -> node word, for judging captions."""


def rules_for(example: Example, settings: MineSettings) -> tuple[str, ...]:
    """The conditions that apply to an example; none when it would yield no pair for sure."""
    short = tuple(rule for rule in settings.conditions if rule in SHORT_RULES)
    if not example.context:
        short = tuple(rule for rule in short if rule == "cm")
    if example.kind != "caption":
        return short
    sampled = tuple(rule for rule in settings.conditions if rule == captions.CONDITION)
    return sampled + (short if settings.caption_conditions else ())


class Miner:
    """Columns of `Task.to_row()` in; one row for each finding out (see `_row`).

    Rows of one image belong in one batch. `vlm` is loaded from `config.model` unless one
    is handed over (in one process).
    """

    def __init__(self, config: MinerConfig, vlm: Vlm | None = None):
        from sightline.models.vlm import Vlm

        self._settings = config.mining
        self._judge = judges.make(config.mining.judge, Lexicon(config.lexicon))
        self._vlm = vlm or Vlm.of(config.model)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        count = len(batch["example_id"])
        tasks = [Task.from_row({name: column[i] for name, column in batch.items()}) for i in range(count)]
        rows = [row for found in self.mine(tasks) for row in found]
        return {name: _column([row[name] for row in rows]) for name in rows[0]}

    def mine(self, tasks: Sequence[Task]) -> list[list[dict[str, Any]]]:
        """Rows of each task, at least one. A task that fails has one, with `error` set."""
        gallery = Gallery(self._settings)
        shown = [gallery.show(task, self._wants_wrong_image(task)) for task in tasks]
        good = [i for i, show in enumerate(shown) if not show.error]
        answers = self._answer([tasks[i] for i in good], [shown[i] for i in good])
        answered = dict(zip(good, answers, strict=True))
        return [
            self._judged(task, shown[i], answered[i])
            if i in answered and not answered[i].error
            else [_row(task.example, error=shown[i].error or answered[i].error)]
            for i, task in enumerate(tasks)
        ]

    def _wants_wrong_image(self, task: Task) -> bool:
        return "cm" in rules_for(task.example, self._settings)

    def _answer(self, tasks: Sequence[Task], shown: Sequence[Shown]) -> list[_Answered]:
        """The model's answers to each task. A task the model cannot take fails alone."""
        if not tasks:
            return []
        try:
            return self._ask(tasks, shown)
        except (DataError, ModelError) as error:
            if len(tasks) == 1:
                return [_Answered({}, [], str(error))]
            halves = (slice(0, len(tasks) // 2), slice(len(tasks) // 2, None))
            return [answer for half in halves for answer in self._answer(tasks[half], shown[half])]

    def _ask(self, tasks: Sequence[Task], shown: Sequence[Shown]) -> list[_Answered]:
        settings = self._settings
        answered = [_Answered({}, [], "") for _ in tasks]
        for is_caption in (False, True):
            asked = [
                (n, source, prompt)
                for n, (task, show) in enumerate(zip(tasks, shown, strict=True))
                if (task.example.kind == "caption") == is_caption
                for source, prompt in self._prompts(task, show).items()
            ]
            answers = self._vlm.generate(
                [prompt for _, _, prompt in asked],
                max_new_tokens=settings.max_new_tokens if is_caption else settings.short_answer_tokens,
                temperature=settings.temperature,
                seed=settings.seed,
                batch_size=settings.batch_size,
            )
            for (n, source, _), (answer,) in zip(asked, answers, strict=True):
                answered[n].by_source[source] = answer
        sampled = [
            n for n, task in enumerate(tasks) if captions.CONDITION in rules_for(task.example, settings)
        ]
        samples = self._vlm.generate(
            [_prompt(shown[n].image, tasks[n].example, with_context=False) for n in sampled],
            max_new_tokens=settings.max_new_tokens,
            temperature=settings.caption_temperature,
            num_samples=settings.samples,
            seed=settings.seed,
            batch_size=settings.batch_size,
        )
        for n, texts in zip(sampled, samples, strict=True):
            answered[n].samples.extend(texts)
        return answered

    def _prompts(self, task: Task, shown: Shown) -> dict[Source, Prompt]:
        """What is asked of a task, by source; only what its rules compare, and nothing twice."""
        rules = [rule for rule in rules_for(task.example, self._settings) if rule in conditions.RULES]
        wanted = {source for rule in rules for source in conditions.RULES[rule]}
        images = {
            "with_context": shown.image,
            "wrong_image": shown.wrong,
            "image_alone": shown.image,
        }
        return {
            source: _prompt(images[source], task.example, with_context=source != "image_alone")
            for source in conditions.SOURCES
            if source in wanted
        }

    def _judged(self, task: Task, shown: Shown, answered: _Answered) -> list[dict[str, Any]]:
        """Finding rows of one example: every rule's outcome, a pair in each prompt form."""
        example, settings = task.example, self._settings
        try:
            attempts = {s: self._attempt(a, example) for s, a in answered.by_source.items()}
            samples = [self._attempt(a, example) for a in answered.samples]
        except DataError as error:
            return [_row(example, error=str(error))]
        rules = rules_for(example, settings)
        findings = [conditions.apply(rule, attempts) for rule in rules if rule in conditions.RULES]
        if captions.CONDITION in rules:
            findings += captions.find(
                samples, count=settings.caption_pairs, max_length_ratio=settings.max_length_ratio
            )
        example = replace(example, sha256=shown.sha256)
        provenance = self._provenance(task, shown, answered, attempts, samples)
        return [
            _row(example, finding=finding, form=form, number=number, provenance=provenance)
            for number, finding in enumerate(findings)
            for form in self._forms(finding, example)
        ] or [_row(example, provenance=provenance)]

    def _forms(self, finding: Finding, example: Example) -> tuple[conditions.Form, ...]:
        # Sampled captions were answered without the context, so that is the prompt they train.
        has_context = bool(example.context) and finding.condition != captions.CONDITION
        forms = conditions.forms(self._settings.prompts, has_context=has_context)
        return forms if finding.outcome == "pair" else forms[:1]

    def _attempt(self, answer: Answer, example: Example) -> Attempt:
        return Attempt(answer.text, judges.check(self._judge, answer.text, example), answer.finished)

    def _provenance(
        self,
        task: Task,
        shown: Shown,
        answered: _Answered,
        attempts: Mapping[Source, Attempt],
        samples: Sequence[Attempt],
    ) -> dict[str, Any]:
        settings = self._settings
        return {
            "answers": {s: _account(answered.by_source[s], attempts[s]) for s in attempts},
            "samples": [_account(a, s) for a, s in zip(answered.samples, samples, strict=True)],
            "truth": task.example.answer,
            "objects": list(task.example.objects),
            "retrieved": task.example.context,
            "judge": settings.judge,
            "wrong_image": {
                **(asdict(shown.wrong_from) if shown.wrong_from else {}),
                "mode": settings.wrong_image,
                "step": settings.noise_step,
            },
            "seed": settings.seed,
            "model": {
                "source": self._vlm.source,
                "revision": self._vlm.revision,
                "identity": self._vlm.identity,
            },
        }


@dataclass(frozen=True, slots=True)
class _Answered:
    by_source: dict[Source, Answer]
    samples: list[Answer]
    error: str


def _prompt(image: Image.Image | None, example: Example, *, with_context: bool) -> Prompt:
    from sightline.models.prompts import Prompt

    return Prompt(image, example.question, example.context if with_context else "")


def _account(answer: Answer, attempt: Attempt) -> dict[str, Any]:
    """One raw answer as provenance keeps it."""
    return {
        "text": answer.text,
        "right": attempt.verdict.right,
        "invented": list(attempt.verdict.invented),
        "logprob": answer.logprob,
        "finished": answer.finished,
    }


def _row(
    example: Example,
    *,
    finding: Finding | None = None,
    form: conditions.Form = "without_context",
    number: int = 0,
    provenance: Mapping[str, Any] | None = None,
    error: str = "",
) -> dict[str, Any]:
    """A finding as a row: a PreferencePair's columns, `kind`, `form`, `outcome` and `error`."""
    found = finding or Finding("", "not_asked", "", "")
    pair = PreferencePair(
        pair_id=f"{example.example_id}#{found.condition}.{number}.{form}",
        example_id=example.example_id,
        image_id=example.image_id,
        image_uri=example.image_uri,
        question=example.question,
        context=example.context if form == "with_context" else "",
        chosen=found.chosen,
        rejected=found.rejected,
        condition=found.condition,
        sha256=example.sha256,
        provenance=dict(provenance or {}),
    )
    return pair.to_row() | {"kind": example.kind, "form": form, "outcome": found.outcome, "error": error}


def _column(values: list[Any]) -> np.ndarray:
    """Texts as objects, so that none is cut to a fixed width."""
    return np.asarray(values, dtype=object if isinstance(values[0], str) else None)
