"""Sightline models inside lmms-eval: its tasks, our models with their mitigations.

    lmms-eval --model sightline --tasks pope_adv --batch_size 16 \\
        --model_args source=HuggingFaceTB/SmolVLM2-2.2B-Instruct,mitigate=spin:k=0.8;vti

lmms-eval finds the model by the entry point `lmms_eval.models` of this package; nothing else here
imports lmms_eval, which has requirements of its own. Its commas part arguments, so a setting's
comma is written as `|`, and mitigations are joined by `;`: `mitigate=spin:k=0.8|alpha=0.1;vti`.

Answers are Sightline's own: greedy unless a mitigation decides otherwise. A task that asks for
sampling or beams in its `generation_kwargs` is refused; say it as a mitigation instead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from lmms_eval.api.model import lmms
from lmms_eval.models.registry_v2 import ModelManifest
from PIL import Image

from sightline.errors import ConfigError, DataError

if TYPE_CHECKING:
    from sightline.models.prompts import Prompt
    from sightline.records import Answer

MANIFEST = ModelManifest(model_id="sightline", simple_class_path=f"{__name__}.Sightline")
"""What the entry point names."""
_TOKENS = 64
"""Longest answer where a task does not say."""


class Sightline(lmms):
    """A `Vlm` with mitigations as lmms-eval's simple model (text, then images)."""

    is_simple = True

    def __init__(
        self,
        source: str = "world",
        *,
        revision: str | None = None,
        dtype: str = "auto",
        device: str = "auto",
        attention: str = "sdpa",
        adapter: str | None = None,
        mitigate: str = "",
        batch_size: int | str = 16,
        **unknown: Any,
    ):
        from sightline.config.model import ModelConfig
        from sightline.mitigations import Mitigated
        from sightline.models.vlm import Vlm

        super().__init__()
        if odd := sorted(set(unknown) - {"max_batch_size"}):
            raise ConfigError(
                expected="source, revision, dtype, device, attention, adapter, mitigate in --model_args",
                got=", ".join(odd),
            )
        model = ModelConfig.model_validate(
            {
                "source": source,
                "revision": revision,
                "dtype": dtype,
                "device": device,
                "attention": attention,
                "adapter": adapter,
            }
        )
        self._batch_size = int(batch_size)
        self.mitigated = Mitigated(Vlm.of(model), read_mitigations(mitigate))

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """One answer a request, in their order; requests of one length limit are decoded together."""
        keyed = [(_limits(request.args[1]), n) for n, request in enumerate(requests)]
        texts = [""] * len(requests)
        for (tokens, stops), group in groupby(sorted(keyed), key=lambda item: item[0]):
            places = [n for _, n in group]
            prompts = [self._prompt(requests[n]) for n in places]
            answers = self.mitigated.generate(prompts, max_new_tokens=tokens, batch_size=self._batch_size)
            for n, answer in zip(places, answers, strict=True):
                texts[n] = cut(answer, stops)
                self.cache_hook.add_partial("generate_until", requests[n].args[:2], texts[n])
        return texts

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """Not offered: mitigations say how to answer, and a given continuation is no answer of theirs."""
        raise NotImplementedError("Sightline models generate; choose a task of output_type generate_until")

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
        """Not offered: a Sightline prompt is one turn."""
        raise NotImplementedError("Sightline models answer one turn; choose a task of one round")

    def _prompt(self, request: Any) -> Prompt:
        """`(text, generation_kwargs, doc_to_visual, doc_id, task, split)` as a prompt."""
        from sightline.models.prompts import Prompt

        text, _, doc_to_visual, doc_id, task, split = request.args
        seen = doc_to_visual(self.task_dict[task][split][doc_id]) if doc_to_visual else []
        if len(seen) > 1 or not all(isinstance(image, Image.Image) for image in seen):
            raise DataError(
                expected=f"at most one image a question in task {task}",
                got=f"{len(seen)} of {', '.join(sorted({type(image).__name__ for image in seen}))}",
            )
        return Prompt(seen[0].convert("RGB") if seen else None, str(text).replace("<image>", "").strip())


def read_mitigations(text: str) -> list[str]:
    """`spin:k=0.8|alpha=0.1;vti` as short texts. `|` stands for lmms-eval's own comma."""
    return [item.strip().replace("|", ",") for item in text.split(";") if item.strip()]


def cut(answer: Answer, stops: Sequence[str]) -> str:
    """The answer up to the first of the task's stop texts."""
    ends = [answer.text.find(stop) for stop in stops if stop and stop in answer.text]
    return answer.text[: min(ends)] if ends else answer.text


def _limits(wanted: Mapping[str, Any]) -> tuple[int, tuple[str, ...]]:
    """Most tokens and stop texts. Raises ConfigError where a task decides how to decode."""
    decides = {
        "do_sample": bool(wanted.get("do_sample")),
        "num_beams": (wanted.get("num_beams") or 1) > 1,
        "temperature": (wanted.get("temperature") or 0) > 0,
    }
    if odd := [name for name, does in decides.items() if does]:
        raise ConfigError(
            expected="a task that leaves decoding to the model",
            got=", ".join(f"{name}={wanted[name]}" for name in odd),
            hint="set it back with --gen_kwargs, and say it as mitigate=beam:num_beams=5 or mitigate=sample",
        )
    until = wanted.get("until") or []
    return int(wanted.get("max_new_tokens") or _TOKENS), tuple([until] if isinstance(until, str) else until)
