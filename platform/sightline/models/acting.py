"""The acting queries of a pass, laid out so that their attention can be computed on its own.

An acting query is a token whose output chooses the next one (`passes`). Packed prefixes put
several into one sequence, scored answers many: they are gathered into slots a sequence, so
that products with the sequence's keys copy no key.

Names: Q acting queries, B sequences of the pass, N most acting queries of a sequence, S keys.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from sightline.models.passes import Pass, Passes


@dataclass(frozen=True, slots=True)
class Queries:
    """Where the acting queries of a pass are, and what they see."""

    group_Q: torch.Tensor
    place_Q: torch.Tensor
    slot_Q: torch.Tensor
    """The number of query q among its sequence's."""
    image_QS: torch.Tensor
    hidden_Q1S: torch.Tensor | None
    """Keys that the query does not see; None where all are seen."""
    shown_Q: torch.Tensor
    """Whether the query sees an image at all."""
    step: bool
    """Whether this is a decoding step: one token a sequence, and it acts."""
    slots: int
    any_shown: bool
    all_shown: bool

    @classmethod
    def of(cls, current: Pass) -> Queries:
        """Lay out a pass's acting queries; once a pass, not once a layer."""
        # Not every decoding pass is one: OPERA feeds several candidates of a sequence at once.
        step = current.phase == "decode" and not bool(current.place_Q.any())
        slot_Q, slots = torch.zeros_like(current.group_Q), 1
        if not step:
            same_QQ = current.group_Q[:, None] == current.group_Q[None, :]
            slot_Q = same_QQ.tril(-1).sum(1)
            slots = int(slot_Q.max()) + 1 if len(slot_Q) else 0
        shown_Q = current.image_QS.any(-1)
        count = int(shown_Q.sum())
        return cls(
            current.group_Q,
            current.place_Q,
            slot_Q,
            current.image_QS,
            None if bool(current.visible_QS.all()) else ~current.visible_QS.unsqueeze(1),
            shown_Q,
            step,
            slots,
            any_shown=count > 0,
            all_shown=count == len(shown_Q),
        )

    def slotted(self, values_Q: torch.Tensor, sequences: int) -> torch.Tensor:
        """(Q, ...) -> (B, N, ...), zero where a sequence has fewer acting queries than N."""
        if self.step:
            return values_Q.unsqueeze(1)
        slotted = values_Q.new_zeros((sequences, self.slots, *values_Q.shape[1:]))
        slotted[self.group_Q, self.slot_Q] = values_Q
        return slotted

    def unslotted(self, values_BN: torch.Tensor) -> torch.Tensor:
        """(B, N, ...) -> (Q, ...)."""
        return values_BN[:, 0] if self.step else values_BN[self.group_Q, self.slot_Q]


class Acting:
    """The acting queries of the pass under way, laid out once however many layers ask."""

    def __init__(self, passes: Passes):
        self._passes = passes
        self._seen: Pass | None = None
        self._queries: Queries | None = None

    @property
    def queries(self) -> Queries:
        """The current pass's."""
        current = self._passes.current
        if self._queries is None or current is not self._seen:
            self._seen, self._queries = current, Queries.of(current)
        return self._queries
