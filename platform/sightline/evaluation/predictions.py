"""Ask a model every question of a benchmark: a Worker from example rows to answer rows.

The Worker holds the model and knows nothing of Ray; whoever calls it with columns
(`distributed.evaluation`, or a for-loop) gets columns back. An image that cannot be
read costs its own rows only, named in the column `error`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from sightline.config.evaluation import EvaluationConfig
from sightline.config.mitigations import Mitigation
from sightline.config.model import ModelConfig
from sightline.errors import ImageError
from sightline.records import Answer, Example

if TYPE_CHECKING:
    from PIL import Image

    from sightline.models.vlm import Vlm


@dataclass(frozen=True, slots=True)
class Prediction:
    """A model's answer to an example. `finished` is False when it was cut off."""

    example: Example
    answer: str
    finished: bool = True
    error: str = ""

    @property
    def benchmark(self) -> str:
        """Where it counts: the example's split, or its kind when it has none."""
        return self.example.split or self.example.kind

    def to_row(self) -> dict[str, Any]:
        """The example's columns, its true answer as `truth`, the model's as `answer`."""
        row = self.example.to_row()
        row["truth"] = row.pop("answer")
        return row | {"answer": self.answer, "finished": self.finished, "error": self.error}

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Prediction:
        """The inverse of `to_row`; `finished` and `error` may be absent."""
        example = Example.from_row({**row, "answer": row["truth"]})
        return cls(example, row["answer"], bool(row.get("finished", True)), row.get("error") or "")


@dataclass(frozen=True, slots=True)
class PredictConfig:
    """What the Worker needs to start: which model, how long answers may be, how it decodes."""

    model: ModelConfig
    evaluation: EvaluationConfig
    mitigations: tuple[Mitigation, ...] = ()


class Predict:
    """Answers batches of `Example.to_row()` columns, greedily unless mitigations say otherwise.

    `vlm` is loaded from `config.model` unless one is handed over (in one process). Raises what
    `Mitigated` raises when the mitigations do not fit the model, before any question is asked.
    """

    def __init__(self, config: PredictConfig, vlm: Vlm | None = None):
        from sightline.mitigations import Mitigated
        from sightline.models.vlm import Vlm

        self._settings = config.evaluation
        self._model = Mitigated(vlm or Vlm.of(config.model), config.mitigations)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Columns of `Prediction.to_row()`, in the order they came."""
        count = len(batch["example_id"])
        rows = [{name: values[i] for name, values in batch.items()} for i in range(count)]
        examples = [Example.from_row(row) for row in rows]
        predictions = self.predict(examples)
        answered = [p.to_row() for p in predictions]
        return {name: _column([row[name] for row in answered]) for name in answered[0]}

    def predict(self, examples: Sequence[Example]) -> list[Prediction]:
        """One prediction an example, in order.

        Questions about one image share its pixels; the same question about the same image
        (POPE's positives stand in all three splits) is asked once.
        """
        images, errors = load_images(examples)
        askable = [e for e in examples if e.image_uri in images]
        answers: dict[Asked, Answer] = {}
        for long in (False, True):
            asked = list(dict.fromkeys(asked_of(e) for e in askable if is_long(e) == long))
            answers |= self._answer(asked, images, long) if asked else {}
        return [
            Prediction(e, "", error=errors[e.image_uri])
            if e.image_uri in errors
            else Prediction(e, answers[asked_of(e)].text, answers[asked_of(e)].finished)
            for e in examples
        ]

    def _answer(
        self, asked: Sequence[Asked], images: Mapping[str, Image.Image], long: bool
    ) -> dict[Asked, Answer]:
        from sightline.models.prompts import Prompt

        settings = self._settings
        answers = self._model.generate(
            [Prompt(images[uri], question, context) for uri, question, context, _ in asked],
            max_new_tokens=settings.max_new_tokens if long else settings.short_answer_tokens,
            batch_size=settings.batch_size,
        )
        return dict(zip(asked, answers, strict=True))


Asked = tuple[str, str, str, bool]
"""Image, question, reference, and whether the answer may be long."""


def asked_of(example: Example) -> Asked:
    """What the model is shown, and whether it may answer at length: equal keys, equal answers."""
    return (example.image_uri, example.question, example.context, is_long(example))


def is_long(example: Example) -> bool:
    """Whether the question is answered at length."""
    return example.kind in ("caption", "open")


def load_images(examples: Sequence[Example]) -> tuple[dict[str, Image.Image], dict[str, str]]:
    """Each image decoded once, by URI, and what went wrong with the others."""
    from sightline.data.images import load_image

    images: dict[str, Image.Image] = {}
    errors: dict[str, str] = {}
    for uri in dict.fromkeys(e.image_uri for e in examples):
        try:
            images[uri] = load_image(uri)
        except ImageError as error:
            errors[uri] = str(error)
    return images, errors


def _column(values: list[Any]) -> np.ndarray:
    """Strings as objects, so that no text is cut to a fixed width."""
    return np.asarray(values, dtype=object if isinstance(values[0], str) else None)
