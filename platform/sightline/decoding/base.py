"""What every way of decoding is to the rest of the library, and what several share.

A `Decoder` owns the whole answer. Those that only score the next token differently are a
`models.strategy.Strategy` inside one, so that the batching stays in one place.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import torch

from sightline.errors import ModelError
from sightline.records import Answer

if TYPE_CHECKING:
    from sightline.models.prompts import Prompt
    from sightline.models.vlm import Vlm


class Decoder(Protocol):
    """Answers prompts its own way."""

    def check(self, vlm: Vlm) -> None:
        """Refuse what this model cannot do, before any work. Raises ModelError."""

    def generate(
        self,
        vlm: Vlm,
        prompts: Sequence[Prompt],
        *,
        max_new_tokens: int = 64,
        batch_size: int = 16,
        seed: int = 0,
    ) -> list[Answer]:
        """One answer a prompt, in order: `batch_size` prompts at once, however many sequences
        (streams, beams) the method decodes for each.

        An answer depends on its prompt and the seed alone, never on its neighbours or
        `batch_size` (up to float noise). Raises ModelError for prompts it cannot take.
        """


def plausible(logits_RV: torch.Tensor, share: float) -> torch.Tensor:
    """Tokens that hold at least `share` of the likeliest one's probability, bool (R, V).

    The adaptive plausibility constraint (Li et al., ACL 2023, Eq. 3): p >= share * max p,
    which in logits is z >= max z + log share. The likeliest token always passes; `share` 0
    lets all pass.
    """
    cutoff = math.log(share) if share > 0 else -math.inf
    return logits_RV >= logits_RV.amax(-1, keepdim=True) + cutoff


def check_sizes(max_new_tokens: int, batch_size: int) -> None:
    """Refuse what no decoding can be asked for. Raises ModelError."""
    if max_new_tokens < 1 or batch_size < 1:
        raise ModelError(
            expected="max_new_tokens and batch_size of at least 1", got=f"{max_new_tokens} and {batch_size}"
        )
