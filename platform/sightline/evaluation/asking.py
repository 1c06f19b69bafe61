"""Ask a model with its mitigations the questions of a benchmark: a Worker, ids in, answers out.

The questions come with the configuration, not with the rows, so that only ids, hashes and
answers are ever written. Long and short answers are asked for in separate calls, and what a
call cost is shared among its answers by their tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from sightline.config.evaluation import EvaluationConfig
from sightline.config.mitigations import Mitigation
from sightline.config.model import ModelConfig
from sightline.evaluation.answers import Answered
from sightline.evaluation.cost import Meter, Spent
from sightline.evaluation.fairness import hash_prompt
from sightline.evaluation.predictions import Asked, asked_of, is_long, load_images
from sightline.records import Answer, Example

if TYPE_CHECKING:
    from PIL import Image

    from sightline.models.vlm import Vlm


@dataclass(frozen=True, slots=True)
class AskConfig:
    """What the Worker needs to start. `examples` are the questions, by id."""

    model: ModelConfig
    mitigations: tuple[Mitigation, ...]
    settings: EvaluationConfig
    examples: Mapping[str, Example]


class Ask:
    """Answers batches of `{example_id}` columns with columns of `Answered`.

    `vlm` is loaded from `config.model` unless one is handed over (in one process). Raises what
    `Mitigated` raises when the mitigations do not fit the model, before any question is asked.
    """

    def __init__(self, config: AskConfig, vlm: Vlm | None = None):
        from sightline.mitigations import Mitigated
        from sightline.models.vlm import Vlm

        vlm = vlm or Vlm.of(config.model)
        self._config = config
        self._meter = Meter(vlm, Mitigated(vlm, config.mitigations))
        kernel = vlm.model.config._attn_implementation
        self._numerics = f"{vlm.device.type} {vlm.model.dtype} {kernel}".replace("torch.", "")

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """One row an id, in their order."""
        examples = [self._config.examples[str(i)] for i in batch["example_id"]]
        rows = [asdict(answer) for answer in self.answer(examples)]
        return {name: _column([row[name] for row in rows]) for name in rows[0]}

    def answer(self, examples: Sequence[Example]) -> list[Answered]:
        """Each example's answer. An image that cannot be read costs its own examples only.

        The same question about the same image (POPE's positives stand in all three splits) is
        asked once; the first example that asks it bears the cost.
        """
        images, errors = load_images(examples)
        given: dict[Asked, Answered] = {}
        for long in (False, True):
            first = {
                asked_of(e): e for e in reversed(examples) if is_long(e) == long and e.image_uri in images
            }
            given |= self._ask(list(first.values())[::-1], images, long) if first else {}
        found = []
        for example in examples:
            answered = given.get(asked_of(example))
            if answered is None:
                error = errors[example.image_uri]
                found.append(Answered(example.example_id, hash_prompt(example), "", error=error))
            elif answered.example_id == example.example_id:
                found.append(answered)
            else:
                found.append(_again(answered, example))
        return found

    def _ask(
        self, examples: Sequence[Example], images: Mapping[str, Image.Image], long: bool
    ) -> dict[Asked, Answered]:
        from sightline.models.prompts import Prompt

        settings = self._config.settings
        answers = self._meter.generate(
            [Prompt(images[e.image_uri], e.question, e.context) for e in examples],
            max_new_tokens=settings.max_new_tokens if long else settings.short_answer_tokens,
            batch_size=settings.batch_size,
        )
        [spent] = self._meter.take()
        return {
            asked_of(example): self._answered(example, answer, spent)
            for example, answer in zip(examples, answers, strict=True)
        }

    def _answered(self, example: Example, answer: Answer, spent: Spent) -> Answered:
        share = len(answer.token_ids) / max(1, spent.tokens)
        return Answered(
            example.example_id,
            hash_prompt(example),
            answer.text,
            finished=answer.finished,
            tokens=len(answer.token_ids),
            seconds=spent.seconds * share,
            passes=spent.passes * share,
            peak_mib=spent.peak_mib,
            numerics=self._numerics,
        )


def _again(answered: Answered, example: Example) -> Answered:
    """The answer of an equal prompt, for nothing."""
    return Answered(
        example.example_id,
        hash_prompt(example),
        answered.answer,
        finished=answered.finished,
        numerics=answered.numerics,
    )


def _column(values: list[Any]) -> np.ndarray:
    """Strings as objects, so that no text is cut to a fixed width."""
    return np.asarray(values, dtype=object if isinstance(values[0], str) else None)
