"""DoLa (Chuang et al., ICLR 2024): the last layer against the earlier one that differs most.

At each token, the state of every candidate layer goes through the final norm and the head;
the candidate whose distribution is farthest from the last layer's in Jensen-Shannon
divergence (Eq. 4) is the premature one, and a token's score is log p_last - log p_premature
(Eq. 2) among the tokens that the last layer finds plausible (Eq. 3).

Candidates are the even layers of the lower or the upper half, in the paper's count, where
0 is the embedding and j the output of the j-th block: here that is layer j - 1, and -1 the
embedding. Above 40 blocks a half is the 20 lowest or highest, as in the released lists. LLaMA
does not tie the embedding to its head; where a model does, layer 0 would read back the very
token that went in, so it is left out, as the authors' version in transformers does; a tied
decoder too shallow for another in its lower half gets layer 2 of the paper's count, as there.

`released` reproduces what the released code does where it differs: the early states go to
the head without the final norm, and the distance is the mean over the vocabulary of KL(M||p)
and KL(M||q), reversed and so no Jensen-Shannon divergence. That code also averaged the
distance over the batch, so that a sample's layer depended on its neighbours; its published
numbers are of batch 1, which both modes give at every batch size. Its repetition penalty
of 1.2 is a setting of the experiments, not of the method, and not built in.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

from sightline.decoding.base import plausible
from sightline.errors import ModelError
from sightline.models.prompts import Prompt
from sightline.models.strategy import Step
from sightline.records import Answer

if TYPE_CHECKING:
    from sightline.models.vlm import Vlm

Mode = Literal["paper", "released"]
Half = Literal["low", "high"]


@dataclass(frozen=True, slots=True)
class LayerContrast:
    """The strategy, with its candidates settled (see `candidates`)."""

    layers: tuple[int, ...]
    relative_top: float = 0.1
    """Smallest share of the likeliest token's probability that is plausible."""
    mode: Mode = "paper"

    def __post_init__(self) -> None:
        if not 0.0 <= self.relative_top <= 1.0:
            raise ModelError(expected="a relative_top from 0 to 1", got=str(self.relative_top))

    def scores(self, step: Step) -> torch.Tensor:
        """(R, V): each row against its own premature layer."""
        last_RV = step.logits_KRV[0].log_softmax(-1)
        states_LRD = step.early_LRD
        released = self.mode == "released"
        logits_LRV = step.head(states_LRD).float() if released else step.project(states_LRD)
        early_LRV = logits_LRV.log_softmax(-1)
        distance = reversed_divergence if released else jensen_shannon
        chosen_R = distance(early_LRV, last_RV).argmax(0)
        rows_R = torch.arange(len(last_RV), device=last_RV.device)
        contrast_RV = last_RV - early_LRV[chosen_R, rows_R]
        return contrast_RV.masked_fill_(~plausible(last_RV, self.relative_top), -torch.inf)


def jensen_shannon(log_p_LRV: torch.Tensor, log_q_RV: torch.Tensor) -> torch.Tensor:
    """Divergence in nats (L, R), from log-probabilities: (KL(p||m) + KL(q||m)) / 2, m their mean."""
    log_m_LRV = torch.logaddexp(log_p_LRV, log_q_RV) - math.log(2.0)
    from_p_LR = (log_p_LRV.exp() * (log_p_LRV - log_m_LRV)).sum(-1)
    from_q_LR = (log_q_RV.exp() * (log_q_RV - log_m_LRV)).sum(-1)
    return 0.5 * (from_p_LR + from_q_LR)


def reversed_divergence(log_p_LRV: torch.Tensor, log_q_RV: torch.Tensor) -> torch.Tensor:
    """What the released code takes for it (L, R): (KL(m||p) + KL(m||q)) / 2, over V."""
    log_m_LRV = torch.logaddexp(log_p_LRV, log_q_RV) - math.log(2.0)
    m_LRV = log_m_LRV.exp()
    to_p_LR = (m_LRV * (log_m_LRV - log_p_LRV)).mean(-1)
    to_q_LR = (m_LRV * (log_m_LRV - log_q_RV)).mean(-1)
    return 0.5 * (to_p_LR + to_q_LR)


def candidates(layers: Half | Sequence[int], num_layers: int, tied: bool) -> tuple[int, ...]:
    """The layers to choose the premature one from, of a decoder with `num_layers` blocks.

    Raises ModelError for layers that are not before the last, or when a half has none.
    """
    last = num_layers - 1
    if not isinstance(layers, str):
        wrong = [layer for layer in layers if not -1 <= layer < last]
        if wrong or not layers:
            raise ModelError(
                expected=f"layers from 0 to {last - 1}, before the last",
                got=", ".join(map(str, wrong)) or "none",
            )
        return tuple(dict.fromkeys(layers))
    low_end, high_start = (num_layers // 2,) * 2 if num_layers <= 40 else (20, num_layers - 20)
    counted = range(low_end) if layers == "low" else range(high_start, num_layers)
    found = tuple(j - 1 for j in counted if j % 2 == 0 and not (tied and j == 0))
    if not found and layers == "low" and num_layers > 2:
        found = (1,)
    if not found:
        raise ModelError(
            expected=f"an even layer in the {layers} half",
            got=f"a decoder of {num_layers} blocks" + (" with tied embeddings" if tied else ""),
            hint="name the layers, for example dola:layers=0+1",
        )
    return found


@dataclass(frozen=True, slots=True)
class DolaDecoder:
    """Greedy decoding on `LayerContrast`'s scores."""

    layers: Half | tuple[int, ...] = "low"
    relative_top: float = 0.1
    mode: Mode = "paper"

    def check(self, vlm: Vlm) -> None:
        """Raises ModelError for layers that this decoder does not have."""
        self._strategy(vlm)

    def generate(
        self,
        vlm: Vlm,
        prompts: Sequence[Prompt],
        *,
        max_new_tokens: int = 64,
        batch_size: int = 16,
        seed: int = 0,
    ) -> list[Answer]:
        """One answer a prompt; nothing is drawn, so `seed` is of no matter."""
        samples = vlm.generate(
            prompts,
            max_new_tokens=max_new_tokens,
            batch_size=batch_size,
            strategy=self._strategy(vlm),
        )
        return [answers[0] for answers in samples]

    def _strategy(self, vlm: Vlm) -> LayerContrast:
        layers = candidates(self.layers, vlm.num_layers, is_tied(vlm))
        return LayerContrast(layers, self.relative_top, self.mode)


def is_tied(vlm: Vlm) -> bool:
    """Whether the head is the embedding table itself."""
    head, table = vlm.adapter.lm_head(vlm.model), vlm.adapter.embeddings(vlm.model)
    return head.weight is table.weight
