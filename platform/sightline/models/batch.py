"""Rows that are being decoded: what each has said, and what the model needs to go on.

It knows nothing of models; `decode` drives it. Names: R rows, K streams a row (`strategy`),
N = R * K sequences, the streams of a row adjacent.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from sightline.models.cache import RowCache


@dataclass(slots=True)
class Continuation:
    """What one row (or one sample of it) was continued with, the stop token included."""

    row: int
    sample: int
    draws: list[float]
    """Uniform numbers in [0, 1), one a token; empty when greedy."""
    ids: list[int] = field(default_factory=list)
    logprob: float = 0.0
    """Sum of the ids' natural log-probabilities at temperature 1, in stream 0."""
    finished: bool = False
    """Whether it ended with a stop token."""
    ended: bool = False
    """Finished, or cut off at `max_new_tokens`."""


@dataclass(slots=True)
class Batch:
    """Rows being decoded. `next_ids_R` are chosen but not yet fed to the model."""

    continuations: list[Continuation]
    streams: int
    """K."""
    cache: RowCache
    """Of N sequences."""
    next_ids_R: torch.Tensor
    positions_N: torch.Tensor
    """The position of the token to feed next; one number serves all axes."""

    @property
    def size(self) -> int:
        """N, the sequences that the model decodes."""
        return len(self.positions_N)

    def next_ids_N(self) -> torch.Tensor:  # noqa: N802  (the shape is part of the name)
        """The chosen tokens as every stream is fed them."""
        return self.next_ids_R.repeat_interleave(self.streams)

    def kept(self) -> Batch | None:
        """The rows that go on, or None when there are none."""
        keep = [i for i, c in enumerate(self.continuations) if not c.ended]
        if not keep:
            return None
        if len(keep) == len(self.continuations):
            return self
        device, streams = self.next_ids_R.device, self.streams
        index_R = torch.tensor(keep, device=device)
        index_N = (index_R[:, None] * streams + torch.arange(streams, device=device)).flatten()
        return Batch(
            [self.continuations[i] for i in keep],
            streams,
            self.cache.kept(index_N),
            self.next_ids_R[index_R],
            self.positions_N[index_N],
        )

    def joined(self, other: Batch) -> Batch:
        """The rows of both."""
        return Batch(
            self.continuations + other.continuations,
            self.streams,
            self.cache.joined(other.cache),
            torch.cat([self.next_ids_R, other.next_ids_R]),
            torch.cat([self.positions_N, other.positions_N]),
        )
