"""Image-guided head suppression: heads that look least at the image are turned down.

Source: Sarkar, Che, Gavin, Beerel, Kundu, "Mitigating Hallucinations in Vision-Language Models
through Image-Guided Head Suppression" (SPIN, EMNLP 2025; code `YUECHE77/SPIN`,
`attentionSPIN.py`). `spin_cross` does the same in models that see through cross-attention.

Names as in `models.attention`: Q acting queries, S keys, H heads, E head width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import torch

from sightline.errors import InterventionError
from sightline.interventions.base import Calls, Intervention, check_finite, chosen_layers
from sightline.models.acting import Acting, Queries
from sightline.models.attention import AttentionCall, attention_control, check_backend
from sightline.models.passes import listening
from sightline.models.vlm import Vlm

Mode = Literal["paper", "released"]


class Spin(Intervention):
    """MHA = concat(m_h * head_h) W_o with m_h = 1 for the top heads, `alpha` for the others.

    Of H heads, the int(k * H) with the highest score are kept (0.95 of 32: 30), chosen anew in
    every layer for every acting query: the last prompt token, and each decoded token. The
    rest of the prompt, and queries that see no image, keep their outputs bit for bit. With
    grouped-query attention every query head has a score of its own.

    paper     score = attention on the image: the weights after the softmax, summed over it.
    released  score = the logits before the softmax, summed over the image (the division by
              their deviation and the softmax over heads that follow keep the order). Its mask
              of a prompt of several rows falls on the last row alone; here each row has its own.
    """

    name = "spin"
    order = 40

    def __init__(
        self,
        k: float = 0.95,
        alpha: float = 0.08,
        *,
        layers: Sequence[int] | None = None,
        mode: Mode = "paper",
    ):
        """`k` is the share of heads kept, `alpha` the factor of the others; `layers` None: all."""
        self.k, self.alpha, self.layers, self.mode = k, alpha, layers, mode

    def check(self, vlm: Vlm) -> None:
        check_settings(self.name, self.k, self.alpha)
        chosen_layers(self.name, self.layers, vlm.num_layers)
        check_backend(vlm.adapter.decoder(vlm.model).config)

    @contextmanager
    def attached(self, vlm: Vlm, calls: Calls) -> Iterator[None]:
        layers = chosen_layers(self.name, self.layers, vlm.num_layers)
        with listening(vlm) as passes:
            acting = Acting(passes)

            def suppress(call: AttentionCall) -> torch.Tensor:
                return suppressed(call, acting.queries, self.k, self.alpha, self.mode)

            handlers = {i: [calls.counted(f"{self.name} at block {i}", suppress)] for i in layers}
            with attention_control(vlm, handlers):
                yield


def check_settings(name: str, k: float, alpha: float) -> None:
    """Raise InterventionError for a share outside 0..1 or a factor that is not finite."""
    check_finite(name, "alpha", alpha)
    if not 0.0 <= k <= 1.0:
        raise InterventionError(expected=f"a share k of kept heads from 0 to 1 for {name}", got=str(k))


def suppressed(call: AttentionCall, queries: Queries, k: float, alpha: float, mode: Mode) -> torch.Tensor:
    """The heads' outputs (B, T, H, E) of a call, those of its acting queries gated."""
    heads = call.query_BHTE.shape[1]
    kept = int(k * heads)
    if not queries.any_shown or kept == heads:
        return call.output_BTHE
    if mode == "paper":
        image_QS1 = queries.image_QS.unsqueeze(-1).float()
        scores_QH = (call.weights_QHS(queries) @ image_QS1).squeeze(-1)
    else:
        scores_QH = call.image_logits_QH(queries)
    output_QHE = call.output_QHE(queries)
    gates_QH1 = gates(scores_QH, kept, alpha).unsqueeze(-1).to(output_QHE.dtype)
    return call.placed(queries, output_QHE * gates_QH1)


def gates(scores_QH: torch.Tensor, kept: int, alpha: float) -> torch.Tensor:
    """1 for each query's `kept` highest scores, `alpha` for the others (Q, H)."""
    lowest = scores_QH.topk(scores_QH.shape[-1] - kept, largest=False).indices
    return torch.ones_like(scores_QH).scatter_(-1, lowest, alpha)
