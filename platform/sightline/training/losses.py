"""Preference losses: pure functions from log-probabilities to named terms, one value a pair.

All log-probabilities are natural and summed over an answer's tokens. With policy pi and frozen
reference pi_ref, the log-ratio of an answer y is h(y) = log pi(y|x) - log pi_ref(y|x), and the
margin of a pair is m = h(chosen) - h(rejected). With `length_normalized`, h is divided by the
number of the answer's tokens first.

    sigmoid  -(1 - e) log s(b m) - e log s(-b m)                DPO Eq. 7 (2305.18290); e = label
                                                                smoothing, cDPO (2305.18290v3 app.)
    ipo      (m - 1 / (2 b))^2                                  IPO Eq. 17 (2310.12036)
    hinge    max(0, 1 - b m)                                    SLiC Eq. 1 (2305.10425), RSO (2309.06657)
    robust   [-(1 - e) log s(b m) + e log s(-b m)] / (1 - 2 e)  rDPO Eq. 11 (2403.00409)
    sft      -log pi(chosen|x) / tokens(chosen)                 RPO Eq. 2 (2404.19733)

TRL's `ipo` equals ours with `length_normalized=True`, and its `sigmoid_norm` is our
length-normalised `sigmoid`; its `sigmoid` ignores label smoothing, ours does not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, assert_never

import torch
from torch.nn import functional as F

Kind = Literal["sigmoid", "ipo", "hinge", "robust"]


@dataclass(frozen=True, slots=True)
class PairLogprobs:
    """Log-probabilities (N,) of both answers of N pairs, and their lengths in tokens (N,)."""

    chosen_N: torch.Tensor
    rejected_N: torch.Tensor
    chosen_tokens_N: torch.Tensor
    rejected_tokens_N: torch.Tensor

    def tensors(self) -> tuple[torch.Tensor, ...]:
        return self.chosen_N, self.rejected_N, self.chosen_tokens_N, self.rejected_tokens_N


def margin(
    policy: PairLogprobs, reference: PairLogprobs, *, length_normalized: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """The log-ratios (h(chosen), h(rejected)), each (N,); their difference is the margin."""
    chosen_N = policy.chosen_N - reference.chosen_N
    rejected_N = policy.rejected_N - reference.rejected_N
    if length_normalized:
        chosen_N = chosen_N / policy.chosen_tokens_N.clamp(min=1)
        rejected_N = rejected_N / policy.rejected_tokens_N.clamp(min=1)
    return chosen_N, rejected_N


def preference(margin_N: torch.Tensor, *, kind: Kind, beta: float, label_smoothing: float) -> torch.Tensor:
    """The preference loss of each pair (N,) from its margin; the equations are listed above."""
    match kind:
        case "sigmoid":
            kept_N = (1 - label_smoothing) * F.logsigmoid(beta * margin_N)
            return -kept_N - label_smoothing * F.logsigmoid(-beta * margin_N)
        case "robust":
            if not label_smoothing < 0.5:
                raise ValueError(f"robust DPO needs label_smoothing below 0.5, got {label_smoothing}")
            kept_N = (1 - label_smoothing) * F.logsigmoid(beta * margin_N)
            flipped_N = label_smoothing * F.logsigmoid(-beta * margin_N)
            return (flipped_N - kept_N) / (1 - 2 * label_smoothing)
        case "ipo":
            return (margin_N - 1 / (2 * beta)) ** 2
        case "hinge":
            return F.relu(1 - beta * margin_N)
        case _:
            assert_never(kind)


def terms(
    policy: PairLogprobs,
    reference: PairLogprobs,
    *,
    kind: Kind = "sigmoid",
    beta: float = 0.1,
    label_smoothing: float = 0.0,
    length_normalized: bool = False,
) -> dict[str, torch.Tensor]:
    """The terms of the loss, each (N,): `preference` and `sft`."""
    chosen_N, rejected_N = margin(policy, reference, length_normalized=length_normalized)
    return {
        "preference": preference(
            chosen_N - rejected_N, kind=kind, beta=beta, label_smoothing=label_smoothing
        ),
        "sft": -policy.chosen_N / policy.chosen_tokens_N.clamp(min=1),
    }


def total(
    terms_N: Mapping[str, torch.Tensor], term_weights: Mapping[str, float], pair_weights_N: torch.Tensor
) -> torch.Tensor:
    """Weighted sum of the terms, then weighted mean over pairs: sum_n w_n l_n / N.

    Dividing by N, not by the sum of weights, keeps the value independent of how the pairs are
    cut into micro-batches and ranks.
    """
    summed_N = sum(weight * terms_N[name] for name, weight in term_weights.items() if weight)
    return (pair_weights_N * summed_N).mean()


def statistics(policy: PairLogprobs, reference: PairLogprobs, *, beta: float) -> dict[str, torch.Tensor]:
    """What to watch, each (N,): implicit rewards (b h), their margin, and who wins (0 / 1)."""
    chosen_N, rejected_N = margin(policy, reference)
    margin_N = chosen_N - rejected_N
    return {
        "reward_chosen": (beta * chosen_N).detach(),
        "reward_rejected": (beta * rejected_N).detach(),
        "margin": (beta * margin_N).detach(),
        "accuracy": (margin_N > 0).float().detach(),
    }
