"""Lines that say what is happening, how far it is, and how long it still takes.

    training: step 120 of 600 (20%), loss 0.512, 0.8 s a step, about 6 min left

A line at most every few seconds, through `logging`, so it reads well in a terminal, in the
output of a Ray worker and in a job's log file alike.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Mapping

LOGGER = logging.getLogger("sightline")


def speak() -> None:
    """Send this process's progress lines to stdout, where Ray forwards them from."""
    if not LOGGER.handlers:
        handler = logging.StreamHandler(sys.stdout)
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
        LOGGER.addHandler(handler)
        LOGGER.setLevel(logging.INFO)
        LOGGER.propagate = False


class Progress:
    """Counts units of work up to `total`; the rate is taken over this process's own share."""

    def __init__(
        self,
        what: str,
        *,
        total: int,
        unit: str,
        done: int = 0,
        every_s: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
        write: Callable[[str], None] = LOGGER.info,
    ):
        self._what, self._total, self._unit = what, total, unit
        self._first = self._done = done
        self._every_s, self._clock, self._write = every_s, clock, write
        self._started = clock()
        self._spoken = float("-inf")

    def update(self, done: int, facts: Mapping[str, float] | None = None) -> None:
        """Note that `done` units are finished; says so if it is time, and always at the end."""
        self._done = done
        now = self._clock()
        if now - self._spoken >= self._every_s or done >= self._total:
            self._spoken = now
            self._write(self.line(facts or {}))

    def line(self, facts: Mapping[str, float]) -> str:
        share = 100 * self._done // max(1, self._total)
        parts = [f"{self._what}: {self._unit} {self._done} of {self._total} ({share}%)"]
        parts += [f"{name} {value:.4g}" for name, value in facts.items()]
        fresh = self._done - self._first
        if fresh > 0:
            each_s = (self._clock() - self._started) / fresh
            parts.append(f"{each_s:.2g} s a {self._unit}")
            if self._done < self._total:
                parts.append(f"about {duration((self._total - self._done) * each_s)} left")
        return ", ".join(parts)


def duration(seconds: float) -> str:
    """`40 s`, `6 min`, `2 h 05 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
