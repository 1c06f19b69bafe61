"""SPIN in models that see through cross-attention: Llama 3.2 Vision, ViT and GPT-2, ...

All keys of cross-attention are the image, so its weights sum to 1 in every head, and their
mean over the image ranks nothing. What does rank is how they are shared between patches and
class token (`paper` here), or the logits before the softmax (`released`, as SPIN's code).
For the method itself see `spin`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch

from sightline.errors import InterventionError
from sightline.interventions.base import chosen_layers
from sightline.interventions.spin import Mode, check_settings, suppressed
from sightline.interventions.stack import check_hookable
from sightline.models.acting import Queries
from sightline.models.attention import AttentionCall, check_backend, controlled
from sightline.models.cross_attention import CrossAttention, cross_attention
from sightline.models.passes import Pass


class CrossAttentionSpin:
    """Turns down, for each acting query, the cross-attention heads that look least at patches.

    Works on a plain transformers model inside `attached`, with `generate` (batches padded on
    the left, beams) as it is. The acting query of a pass is its last; with `every_query` all
    of them are, each gated by its own scores: what a teacher-forced answer needs.

    paper     score = weights after the softmax, summed over patches; refused for a vision
              tower without a class token, whose patches have all of them.
    released  score = logits before the softmax, summed over the patches.
    """

    name = "cross_attention_spin"

    def __init__(
        self,
        k: float = 0.95,
        alpha: float = 0.08,
        *,
        layers: Sequence[int] | None = None,
        mode: Mode = "paper",
        every_query: bool = False,
    ):
        """`layers` counts the layers that have cross-attention, from 0; None: all."""
        self.k, self.alpha, self.layers, self.mode = k, alpha, layers, mode
        self.every_query = every_query

    def check(self, model: Any) -> None:
        """Refuse what can never work. Raises InterventionError, UnknownFamilyError, ModelError."""
        check_settings(self.name, self.k, self.alpha)
        found = cross_attention(model)
        chosen_layers(self.name, self.layers, len(found.modules))
        check_backend(found.modules[0].config)
        check_hookable(model)
        if self.mode == "paper" and not found.leading:
            raise InterventionError(
                expected="a vision tower with a class token",
                got="patches alone, to which every head gives all its attention",
                hint="rank heads by their logits: mode released",
            )

    @contextmanager
    def attached(self, model: Any) -> Iterator[None]:
        """Act inside the `with`; afterwards the model is bit-equal to what it was.

        Raises InterventionError when the `with` ends well and no cross-attention ever ran.
        """
        self.check(model)
        found, calls = cross_attention(model), 0

        def suppress(call: AttentionCall) -> torch.Tensor:
            nonlocal calls
            calls += 1
            return suppressed(call, self._queries(call, found), self.k, self.alpha, self.mode)

        layers = chosen_layers(self.name, self.layers, len(found.modules))
        with controlled({found.modules[i]: (i, [suppress]) for i in layers}):
            yield
        if not calls:
            raise InterventionError(
                expected="cross-attention to run inside the `with`",
                got="no call",
                hint="show the model an image",
            )

    def _queries(self, call: AttentionCall, found: CrossAttention) -> Queries:
        """The acting queries of one call."""
        (rows, _, tokens, _), keys = call.query_BHTE.shape, call.keys_BJSE.shape[2]
        device = call.query_BHTE.device
        first = 0 if self.every_query else tokens - 1
        place_T = torch.arange(first, tokens, device=device)
        group_Q = torch.arange(rows, device=device).repeat_interleave(len(place_T))
        place_Q = place_T.repeat(rows)
        visible_QS = torch.ones((len(group_Q), keys), dtype=torch.bool, device=device)
        if call.mask_BHTS is not None:
            mask_BTS = call.mask_BHTS[:, 0].expand(rows, tokens, keys)
            visible_QS = _visible(mask_BTS)[group_Q, place_Q]
        image_QS = visible_QS & found.patches(keys).to(device)
        phase: Literal["prefill", "decode"] = "decode" if tokens == 1 else "prefill"
        answer_Q = torch.zeros_like(group_Q, dtype=torch.bool)
        return Queries.of(Pass(phase, group_Q, place_Q, image_QS, visible_QS, answer_Q))


def _visible(mask: torch.Tensor) -> torch.Tensor:
    """What a back-end's mask leaves visible: it is bool, or very negative where nothing is."""
    return mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2
