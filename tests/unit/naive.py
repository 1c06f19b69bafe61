"""Decoding as anyone would write it: one row, whole forward passes, no cache, no hooks.

What the engine's batches, caches, packed prefixes and streams are compared with.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from sightline.models.encoding import EncodedRow
from sightline.models.prompts import Prompt
from sightline.models.vlm import Vlm

Score = Callable[[list[torch.Tensor], list[torch.Tensor]], torch.Tensor]
"""(logits of each view, each (V,); hidden states of the first view, embedding first, each (D,)) -> (V,)."""


def naive_ids(vlm: Vlm, views: Sequence[Prompt], score: Score, max_new_tokens: int) -> tuple[int, ...]:
    """Tokens chosen for the first view, all views being fed the same ones."""
    rows, chosen = vlm.encode(views), list[int]()
    while len(chosen) < max_new_tokens and not (chosen and chosen[-1] in vlm.stop_ids):
        with torch.inference_mode():
            seen = [look(vlm, replace(row, ids=row.ids + chosen)) for row in rows]
        scores_V = score([logits for logits, _ in seen], seen[0][1])
        chosen.append(int(scores_V.argmax()))
    return tuple(chosen)


def look(vlm: Vlm, row: EncodedRow) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """The last token's logits, and its hidden states as transformers lists them."""
    adapter, model = vlm.adapter, vlm.model
    if row.image is None:  # not every family's own forward takes a text without an image
        ids_1T = torch.tensor([row.ids])
        outputs = adapter.decoder(model)(input_ids=ids_1T, output_hidden_states=True, use_cache=False)
        logits_1TV = adapter.lm_head(model)(outputs.last_hidden_state)
        hidden = outputs.hidden_states
    else:
        outputs = model(**vlm.collate([row]), output_hidden_states=True, use_cache=False)
        logits_1TV = outputs.logits
        language = getattr(outputs, "language_model_outputs", None)
        hidden = outputs.hidden_states if language is None else language.hidden_states
    return logits_1TV[0, -1].float(), [state[0, -1] for state in hidden]
