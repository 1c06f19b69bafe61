"""The log-probability a model gives to given answers. Prompts that begin alike run once."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from sightline.models.decode import check_length
from sightline.models.encoding import EncodedRow
from sightline.models.prefix import Packed, SharedForward

if TYPE_CHECKING:
    from sightline.models.adapters.base import Adapter


def token_logprobs(
    adapter: Adapter,
    model: Any,
    rows: Sequence[EncodedRow],
    *,
    image_token_id: int,
    batch_size: int,
    reuse_prefix: bool = True,
) -> list[torch.Tensor]:
    """Natural log-probabilities (float32, on the CPU) of each row's answer tokens.

    Rows that share an image share its encoding and their common tokens. The head is
    applied at the scored positions only.
    """
    check_length(adapter, model, max((len(row) for row in rows), default=0))
    forward = SharedForward(adapter, model, image_token_id, reuse_prefix=reuse_prefix)
    parts = deque(forward.parts(rows, batch_size))
    results: dict[int, torch.Tensor] = {}
    while parts:
        taken = parts.popleft()
        while parts and len(taken) + len(parts[0]) <= batch_size:
            taken += parts.popleft()
        hidden_GTD, packed = forward(chosen := [rows[i] for i in taken])
        scored = _answer_logprobs(adapter.lm_head(model), chosen, hidden_GTD, packed)
        results.update(zip(taken, scored, strict=True))
    return [results[i] for i in range(len(rows))]


def _answer_logprobs(
    head: Any, rows: Sequence[EncodedRow], hidden_GTD: torch.Tensor, packed: Packed
) -> list[torch.Tensor]:
    """Log-probabilities of each row's answer tokens, from the states before them on its path."""
    groups: list[int] = []
    sources: list[int] = []
    targets: list[int] = []
    for row, group, path in zip(rows, packed.group_R, packed.path_R, strict=True):
        answer = row.spans.answer
        sources += path[answer.start - 1 : answer.stop - 1].tolist()
        targets += row.answer_ids
        groups += [group] * (answer.stop - answer.start)
    logits_AV = head(hidden_GTD[groups, sources]).float()
    target_A1 = torch.tensor(targets, device=logits_AV.device)[:, None]
    logprobs_A = logits_AV.gather(1, target_A1)[:, 0] - logits_AV.logsumexp(-1)
    return list(logprobs_A.cpu().split([len(row.answer_ids) for row in rows]))
