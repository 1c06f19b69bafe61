"""PAI and SPIN written out plainly: one sequence, whole attention maps, no cache. For comparison only."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import AttentionInterface

from sightline.models.encoding import EncodedRow
from sightline.models.vlm import Vlm


@dataclass(frozen=True)
class Plain:
    """What to do at the acting queries, in the order PAI, SPIN; None leaves it out."""

    pai_alpha: float | None = None
    spin_k: float | None = None
    spin_alpha: float = 0.08
    spin_mode: str = "paper"

    def attention(self, image: Sequence[int], acting: Sequence[int]) -> Any:
        """An attention function for transformers."""

        def function(module, query, key, value, mask, scaling=None, **kwargs):
            repeats = query.shape[1] // key.shape[1]
            keys, values = key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1)
            logits = query @ keys.transpose(2, 3) * scaling
            length = logits.shape[-1]
            if self.pai_alpha is not None:
                for place in acting:
                    row = logits[:, :, place, image]
                    logits[:, :, place, image] = row + row.abs() * self.pai_alpha
            future = torch.ones(length, length).triu(1).bool()
            weights = logits.masked_fill(future, float("-inf")).softmax(-1)
            output = weights @ values
            if self.spin_k is not None:
                scored = weights if self.spin_mode == "paper" else logits
                for place in acting:
                    scores = scored[0, :, place, image].sum(-1)
                    for head in scores.argsort(descending=True)[int(self.spin_k * len(scores)) :]:
                        output[0, head, place] *= self.spin_alpha
            return output.transpose(1, 2), None

        return function

    def logits(self, vlm: Vlm, row: EncodedRow, continuation: Sequence[int]) -> torch.Tensor:
        """The logits (A, V) that chose each of the tokens a prompt was continued with."""
        start = len(row.ids)
        whole = replace(row, ids=[*row.ids, *continuation[:-1]])
        acting = range(start - 1, len(whole.ids))
        function = self.attention(row.spans.image_indices(), list(acting))
        with torch.inference_mode(), _attending(vlm, function if row.image is not None else None):
            return vlm.model(**vlm.collate([whole])).logits[0, start - 1 :]


@contextmanager
def _attending(vlm: Vlm, function: Any) -> Iterator[None]:
    modules = vlm.adapter.attentions(vlm.model) if function is not None else []
    configs = [module.config for module in modules]
    if function is not None:
        AttentionInterface.register("full_maps", function)
    for module in modules:
        module.config = copy.copy(module.config)
        module.config._attn_implementation = "full_maps"
    yield
    for module, config in zip(modules, configs, strict=True):
        module.config = config
