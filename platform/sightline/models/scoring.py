"""The log-probability a model gives to given answers. Prompts that begin alike run once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from sightline.models.decode import check_window
from sightline.models.encoding import EncodedRow
from sightline.models.prefix import forward_packed, group_rows

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
    check_window(adapter, model, max((len(row) for row in rows), default=0))
    groups = group_rows(adapter, rows, reuse_prefix=reuse_prefix)
    parts = [group[i : i + batch_size] for group in groups for i in range(0, len(group), batch_size)]
    parts.sort(key=lambda part: max(len(rows[i]) for i in part))
    results: dict[int, torch.Tensor] = {}
    while parts:
        taken = parts.pop(0)
        while parts and len(taken) + len(parts[0]) <= batch_size:
            taken = taken + parts.pop(0)
        chosen = [rows[i] for i in taken]
        scored = _score_batch(adapter, model, chosen, image_token_id, reuse_prefix)
        results.update(zip(taken, scored, strict=True))
    return [results[i] for i in range(len(rows))]


def _score_batch(
    adapter: Adapter, model: Any, rows: Sequence[EncodedRow], image_token_id: int, reuse_prefix: bool
) -> list[torch.Tensor]:
    hidden_GTD, packed = forward_packed(adapter, model, image_token_id, rows, reuse_prefix=reuse_prefix)
    groups, sources, targets, lengths = [], [], [], []
    for row, group, path in zip(rows, packed.group_R, packed.path_R, strict=True):
        answer = row.spans.answer
        # The state one token earlier on the row's own path predicts each answer token.
        sources += path[answer.start - 1 : answer.stop - 1].tolist()
        targets += row.answer_ids
        lengths.append(answer.stop - answer.start)
        groups += [group] * lengths[-1]
    logits_AV = adapter.lm_head(model)(hidden_GTD[groups, sources]).float()
    target_A1 = torch.tensor(targets, device=logits_AV.device)[:, None]
    logprobs_A = logits_AV.gather(1, target_A1)[:, 0] - logits_AV.logsumexp(-1)
    return list(logprobs_A.cpu().split(lengths))
