"""Attention boost: the token being decoded looks harder at the image.

Source: Liu, Zheng, Chen, "Paying More Attention to Image: A Training-Free Method for Alleviating
Hallucination in LVLMs" (PAI, ECCV 2024), Eq. 3. Its second part, guidance against the same
question without the image, is a contrast of two streams and lives in `decoding`.

Names as in `models.attention`: Q acting queries, S keys, H heads.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from sightline.interventions.base import Calls, Intervention, check_finite, chosen_layers
from sightline.models.acting import Acting
from sightline.models.attention import AttentionCall, attention_control, check_backend
from sightline.models.passes import listening
from sightline.models.vlm import Vlm


class Pai(Intervention):
    """a += alpha * |a| at the acting query's image columns, before the softmax.

    Only queries whose output chooses the next token are changed, each in its own row of the
    attention; the rest of a prompt goes through the back-end untouched. The released code
    boosts the last place of each pass, which is the same query for prompts padded on the left,
    so there is no `released` mode. Queries that see no image keep their outputs bit for bit.

    In a stack it comes before SPIN, which then ranks heads by the boosted attention.
    """

    name = "pai"
    order = 30

    def __init__(self, alpha: float = 0.2, *, layers: Sequence[int] | None = None):
        """`layers` None: every decoder block."""
        self.alpha, self.layers = alpha, layers

    def check(self, vlm: Vlm) -> None:
        check_finite(self.name, "alpha", self.alpha)
        chosen_layers(self.name, self.layers, vlm.num_layers)
        check_backend(vlm.adapter.decoder(vlm.model).config)

    @contextmanager
    def attached(self, vlm: Vlm, calls: Calls) -> Iterator[None]:
        layers = chosen_layers(self.name, self.layers, vlm.num_layers)
        with listening(vlm) as passes:
            acting = Acting(passes)

            def boost(call: AttentionCall) -> torch.Tensor:
                queries = acting.queries
                if not queries.any_shown:
                    return call.output_BTHE
                logits_QHS = call.logits_QHS(queries)
                gain_Q1S = (queries.image_QS * self.alpha).unsqueeze(1).to(logits_QHS.dtype)
                boosted_QHS = torch.addcmul(logits_QHS, logits_QHS.abs(), gain_Q1S)
                return call.placed(queries, call.attend(queries, boosted_QHS))

            handlers = {i: [calls.counted(f"{self.name} at block {i}", boost)] for i in layers}
            with attention_control(vlm, handlers):
                yield
