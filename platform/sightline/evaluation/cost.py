"""What answers cost, measured while they are given: seconds, tokens, forward passes, memory.

A `Meter` stands between whoever asks and the model's `generate`. Seconds are wall time inside
`generate` alone (no reading of images from disk). A pass is one sequence that goes once through
the decoder: a batch of R rows is R passes, rows that have ended but still lie in the batch
included; a packed prefix that serves several prompts counts once.

Memory is how far the process rose above the loaded and warmed-up model: the device's own
counter on a GPU; on Linux the resident high-water mark, which is set back when the model is
loaded; unknown elsewhere. The high-water mark is the process's, so a figure is only as clean as
its process: give every row a worker of its own, as Ray does.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from sightline.records import Answer

if TYPE_CHECKING:
    from sightline.models.prompts import Prompt
    from sightline.models.vlm import Vlm

_MIB = 2**20
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class Generator(Protocol):
    """What answers prompts: `sightline.mitigations.Mitigated`."""

    def generate(
        self, prompts: Sequence[Prompt], *, max_new_tokens: int = 64, batch_size: int = 16
    ) -> list[Answer]: ...


@dataclass(frozen=True, slots=True)
class Spent:
    """What one call of `generate` took; `peak_mib` is nan where it cannot be known."""

    seconds: float
    tokens: int
    passes: int
    peak_mib: float


@dataclass
class Meter:
    """A generator that remembers what each call cost. Same answers, same interface."""

    vlm: Vlm
    generator: Generator
    spent: list[Spent] = field(default_factory=list)
    """One entry a call since the last `take`."""
    _memory: _Memory | None = None

    def generate(
        self, prompts: Sequence[Prompt], *, max_new_tokens: int = 64, batch_size: int = 16
    ) -> list[Answer]:
        """The generator's answers. The first call is preceded by a short one that is not counted:
        it pays for what is set up once (kernels, threads, the device's context)."""
        if self._memory is None:
            self.generator.generate(prompts[:1], max_new_tokens=8, batch_size=1)
            self._memory = _Memory(self.vlm.device)
        with _counted_passes(self.vlm) as passes:
            started = time.perf_counter()
            answers = self.generator.generate(prompts, max_new_tokens=max_new_tokens, batch_size=batch_size)
            self._memory.settle()
            seconds = time.perf_counter() - started
        tokens = sum(len(answer.token_ids) for answer in answers)
        self.spent.append(Spent(seconds, tokens, passes[0], self._memory.above_mib()))
        return answers

    def take(self) -> list[Spent]:
        """What was spent since the last time, and start anew."""
        spent, self.spent = self.spent, []
        return spent


@contextmanager
def _counted_passes(vlm: Vlm) -> Iterator[list[int]]:
    """A list of one number that grows by the batch size of every call of the decoder."""
    passes = [0]

    def count(_: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        given = named.get("inputs_embeds")
        given = named.get("input_ids", *arguments[:1]) if given is None else given
        passes[0] += int(given.shape[0])

    handle = vlm.adapter.decoder(vlm.model).register_forward_pre_hook(count, with_kwargs=True)
    try:
        yield passes
    finally:
        handle.remove()


class _Memory:
    """How far memory rose above what it was when this was made, in MiB."""

    def __init__(self, device: Any):
        import torch

        self._cuda = torch.cuda if device.type == "cuda" else None
        self._device = device
        if self._cuda is not None:
            self._cuda.reset_peak_memory_stats(device)
            self._before = self._cuda.memory_allocated(device) / _MIB
        else:
            _reset_high_water()
            self._before = _status_mib("VmRSS")

    def settle(self) -> None:
        """Wait for what the device still has to do."""
        if self._cuda is not None:
            self._cuda.synchronize(self._device)

    def above_mib(self) -> float:
        if self._cuda is not None:
            return self._cuda.max_memory_allocated(self._device) / _MIB - self._before
        return _status_mib("VmHWM") - self._before


def _reset_high_water() -> None:
    """Linux forgets the high-water mark on request; where it may not, the mark stays as it was."""
    try:
        _CLEAR.write_text("5")
    except OSError:
        return


def _status_mib(name: str) -> float:
    """A size that Linux tells about this process; nan where there is no such file."""
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return math.nan
    found = [line.split()[1] for line in lines if line.startswith(f"{name}:")]
    return int(found[0]) / 1024 if found else math.nan
