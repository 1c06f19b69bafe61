"""Adam, one tensor at a time and each in one walk over memory.

The same numbers as `torch.optim.Adam` (Kingma & Ba 2015, Algorithm 1; a test says so),
through the same fused kernel as its `fused=True`. What differs is when: a weight is
updated as soon as its own gradient is known, so the gradient is still in the cache and
its memory serves the next one. `torch.optim.Adam` would first want all of them.
"""

from __future__ import annotations

import torch

BETAS, EPS = (0.9, 0.999), 1e-8
"""PyTorch's defaults, which HALP keeps."""


class Adam:
    """State of every tensor it has updated, by identity; L2 penalty as in `torch.optim.Adam`."""

    def __init__(self, lr: float, weight_decay: float):
        self._lr, self._weight_decay = lr, weight_decay
        self._state: dict[int, tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = {}

    def update(self, weight: torch.Tensor, gradient: torch.Tensor) -> None:
        """One step of `weight`, in place."""
        if id(weight) not in self._state:
            count = torch.zeros((), device=weight.device)
            self._state[id(weight)] = (torch.zeros_like(weight), torch.zeros_like(weight), count)
        mean, square, count = self._state[id(weight)]
        count += 1
        torch._fused_adam_(
            [weight],
            [gradient],
            [mean],
            [square],
            [],
            [count],
            lr=self._lr,
            beta1=BETAS[0],
            beta2=BETAS[1],
            weight_decay=self._weight_decay,
            eps=EPS,
            amsgrad=False,
            maximize=False,
        )
