"""Log-probabilities of both answers of every pair, with as little computing as possible.

`shared` puts both answers behind one prompt in one sequence (`training/branches.py`) and encodes
every distinct image of the micro-batch once. `plain` runs each answer in a sequence of its own
through the model's own forward. Both give the same losses and gradients; a family whose positions
cannot restart (its adapter says so) gets `plain`. In neither does the language-model head look at
the prompt: vocabulary times prompt length is where preference training usually spends its memory.
"""

from __future__ import annotations

import logging
from typing import Any, Literal

import torch
from torch import nn
from torch.nn import functional as F

from sightline.models.adapters.base import Adapter
from sightline.training import branches
from sightline.training.collate import PairBatch

LOGGER = logging.getLogger("sightline")

Mode = Literal["shared", "plain"]


def choose_mode(wanted: Mode, adapter: Adapter) -> Mode:
    """The wanted mode, or `plain` with a logged reason where the family cannot share."""
    if wanted == "shared" and not adapter.supports_shared_prefix:
        LOGGER.warning(
            "training: %s cannot place several answers after one prompt; using the plain forward",
            type(adapter).__name__,
        )
        return "plain"
    return wanted


class PairForward(nn.Module):
    """Calls a VLM (or peft's wrapper of it) on a PairBatch.

    Returns log-probabilities (2, N): row 0 chosen, row 1 rejected. `model` is what learns;
    `vlm_model` is the family's own class inside it, where the adapter finds its parts.
    """

    def __init__(self, model: nn.Module, adapter: Adapter, mode: Mode, *, image_token_id: int):
        super().__init__()
        self.model: Any = model
        self.adapter = adapter
        self.mode: Mode = choose_mode(mode, adapter)
        self._image_token_id = image_token_id

    @property
    def vlm_model(self) -> Any:
        return self.model.get_base_model() if hasattr(self.model, "peft_config") else self.model

    def forward(self, batch: PairBatch) -> torch.Tensor:
        logprob_S = self._plain(batch) if batch.packed is None else self._shared(batch, batch.packed)
        return logprob_S.view(-1, 2).T if batch.packed is not None else logprob_S.view(2, -1)

    def _shared(self, batch: PairBatch, packed: branches.PackedBatch) -> torch.Tensor:
        """(2N,), the two answers of a pair side by side."""
        model = self.vlm_model
        encoded = self.adapter.encode_images(model, batch.image_rows) if batch.image_rows else []
        features = [encoded[k] for k in batch.image_of_sequence]
        embeds_BTD = self.adapter.embed(model, packed.ids_BT, features, self._image_token_id)
        hidden_BTD = self.adapter.decoder(model)(
            inputs_embeds=embeds_BTD,
            attention_mask=packed.mask(_mask_dtype(embeds_BTD)),
            position_ids=packed.position_BT if batch.position_XBT is None else batch.position_XBT,
            use_cache=False,
        ).last_hidden_state
        logprob_A = branches.token_logprobs(hidden_BTD, self.adapter.lm_head(model), packed)
        return branches.sum_by_branch(logprob_A, packed)

    def _plain(self, batch: PairBatch) -> torch.Tensor:
        """(2N,), all chosen answers before all rejected ones.

        Sequences are padded on the left, so the answers stand at the right edge and the head
        needs to see no more columns than the longest answer has.
        """
        keep = int(batch.answer_tokens_S.max()) + 1
        logits_SKV = self.model(**batch.inputs, use_cache=False, logits_to_keep=keep).logits[:, -keep:-1]
        target_SK = batch.inputs["input_ids"][:, 1 - keep :]
        column_K = torch.arange(keep - 1, device=target_SK.device)
        scored_SK = column_K >= keep - 1 - batch.answer_tokens_S[:, None]
        logprob_SK = -F.cross_entropy(
            logits_SKV.float().flatten(0, 1), target_SK.flatten(), reduction="none"
        ).view_as(target_SK)
        return (logprob_SK * scored_SK).sum(-1)


def _mask_dtype(embeds_BTD: torch.Tensor) -> torch.dtype:
    """The dtype that attention will run in: an additive mask must have it."""
    device = embeds_BTD.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else embeds_BTD.dtype
