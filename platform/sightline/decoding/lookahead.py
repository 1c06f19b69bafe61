"""Several possible next tokens of many rows in one forward pass, and what they attend to.

The candidates of a row stand side by side on the token axis, all at the same position: each
sees the row's cache and itself, not the others. One pass so gives every candidate the state,
the keys and the values it would have if it alone had been chosen, and what was chosen is
kept without another pass (OPERA's released code runs one for each candidate and then the
chosen ones again).

Of the attention, only the rows of these queries in the last layer are ever computed, after
whatever else acts in that layer (PAI's boost is in them), and only their largest value over
the heads is kept.

Names: R rows, C tokens of each in the pass, S slots, D width, V vocabulary, H heads.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

import torch
from transformers.cache_utils import DynamicCache

from sightline.models.acting import Acting
from sightline.models.attention import AttentionCall, attention_control
from sightline.models.cache import RowCache
from sightline.models.passes import Pass, announce, listening, step_pass
from sightline.models.prefix import attention_mask

if TYPE_CHECKING:
    from sightline.models.encoding import EncodedRow
    from sightline.models.prefix import SharedForward
    from sightline.models.vlm import Vlm


class LookAhead:
    """A model's decoder, fed several tokens a row; use inside `attached`."""

    def __init__(self, vlm: Vlm):
        self._adapter, self._model, self._vlm = vlm.adapter, vlm.model, vlm
        self._acting: Acting | None = None
        self._reads = False
        self._weights_QS: torch.Tensor | None = None
        self.read_bytes = 0
        """Size of the attention that the last look-ahead read: one layer, its acting queries."""

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Read the last layer's attention inside the `with`."""
        last = self._vlm.num_layers - 1
        with listening(self._vlm) as passes, attention_control(self._vlm, {last: [self._read]}):
            self._acting = Acting(passes)
            yield

    def prompts(
        self, forward: SharedForward, rows: Sequence[EncodedRow], copies: int
    ) -> tuple[RowCache, torch.Tensor, list[int]]:
        """The prompts' pass: a cache of `copies` rows each, logits (R, V) a prompt, next positions."""
        packed, inputs = forward.prepare(rows)
        cache = DynamicCache()
        hidden_GTD = forward.run(inputs, cache)
        last = [int(path[-1]) for path in packed.path_R]
        positions = (packed.positions_AGT[0, packed.group_R, last] + 1).tolist()
        every = [r for r in range(len(rows)) for _ in range(copies)]
        rows_cache = RowCache.from_packed(
            cache,
            [packed.group_R[r] for r in every],
            [packed.path_R[r] for r in every],
            [rows[r].spans.image_indices() for r in every],
        )
        return rows_cache, self.logits(hidden_GTD[packed.group_R, last]), positions

    def branches(
        self, cache: RowCache, ids_RC: torch.Tensor, positions_R: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Feed each row's candidates beside each other; `cache` is C slots longer afterwards.

        Returns last states (R, C, D), attention weights (R, C, S), the largest over the heads
        and renormalised (float32, the candidate's own slot is S - C + c), and their sum over
        the image (R, C).
        """
        own_CC = torch.eye(ids_RC.shape[1], dtype=torch.bool, device=ids_RC.device)
        positions_RC = positions_R[:, None].expand_as(ids_RC)
        self._reads = True
        hidden_RCD, current = self._fed(cache, ids_RC, positions_RC, own_CC)
        self._reads = False
        assert self._weights_QS is not None
        image_RC = (self._weights_QS * current.image_QS).sum(-1).view(ids_RC.shape)
        weights_RCS = self._weights_QS.view(*ids_RC.shape, -1)
        self._weights_QS = None
        return hidden_RCD, weights_RCS, image_RC

    def replayed(self, cache: RowCache, ids_RC: torch.Tensor, position: int) -> torch.Tensor:
        """Feed tokens that had been chosen one after the other; logits (R, V) after the last."""
        count = ids_RC.shape[1]
        earlier_CC = torch.ones((count, count), dtype=torch.bool, device=ids_RC.device).tril()
        positions_RC = torch.arange(position, position + count, device=ids_RC.device).expand_as(ids_RC)
        hidden_RCD, _ = self._fed(cache, ids_RC, positions_RC, earlier_CC)
        return self.logits(hidden_RCD[:, -1])

    def logits(self, hidden_RD: torch.Tensor) -> torch.Tensor:
        """(R, V), float32."""
        return self._adapter.lm_head(self._model)(hidden_RD).float()

    def _fed(
        self, cache: RowCache, ids_RC: torch.Tensor, positions_RC: torch.Tensor, new_CC: torch.Tensor
    ) -> tuple[torch.Tensor, Pass]:
        """One pass over new tokens that see the cache and, among themselves, what `new_CC` says."""
        rows, count = ids_RC.shape
        cache.reserve(count)
        before = cache.length
        slots = torch.arange(before, device=ids_RC.device)
        cached_RCS = (slots >= cache.starts_R[:, None])[:, None].expand(-1, count, -1)
        visible_RCS = torch.cat([cached_RCS, new_CC.expand(rows, -1, -1)], dim=-1)
        decoder = self._adapter.decoder(self._model)
        embeds_RCD = self._adapter.embeddings(self._model)(ids_RC)
        described = partial(_branched, cache.images_RP, cache.starts_R, visible_RCS)
        axes = self._adapter.position_axes
        announce(self._model, described)
        outputs = decoder(
            inputs_embeds=embeds_RCD,
            attention_mask=attention_mask(decoder, visible_RCS[:, None], embeds_RCD.dtype),
            position_ids=positions_RC if axes == 1 else positions_RC.expand(axes, -1, -1),
            past_key_values=cache,
            use_cache=True,
        )
        return outputs.last_hidden_state, described()

    def _read(self, call: AttentionCall) -> torch.Tensor:
        """The handler: keep the acting queries' weights, change nothing."""
        if self._reads:
            assert self._acting is not None
            weights_QHS = call.weights_QHS(self._acting.queries)
            self.read_bytes = weights_QHS.nbytes
            largest_QS = weights_QHS.amax(1).float()
            self._weights_QS = largest_QS / largest_QS.sum(-1, keepdim=True)
        return call.output_BTHE


def _branched(images_RP: torch.Tensor, starts_R: torch.Tensor, visible_RCS: torch.Tensor) -> Pass:
    """What `LookAhead._fed` announces: every token of the pass acts, as in a step."""
    rows, count, length = visible_RCS.shape
    step = step_pass(images_RP, starts_R, length)
    group_Q = step.group_Q.repeat_interleave(count)
    place_Q = torch.arange(count, device=group_Q.device).repeat(rows)
    return Pass(
        "decode",
        group_Q,
        place_Q,
        step.image_QS[group_Q],
        visible_RCS.flatten(0, 1),
        torch.ones_like(group_Q, dtype=torch.bool),
    )
