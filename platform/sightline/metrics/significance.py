"""Is a difference more than chance: McNemar's test, and corrections for many comparisons.

Pure counting. Which differences make up one family is the caller's to say, and to name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from sightline.errors import DataError


def mcnemar(before_N: npt.ArrayLike, after_N: npt.ArrayLike) -> float:
    """Two-sided exact p-value that the same items are right equally often before and after.

    McNemar, Psychometrika 1947, in its exact form: of the items that changed, as many should
    have become right as wrong (binomial, p = 1/2). 1 when none changed. Items count as
    independent, whichever image they belong to. Raises DataError when the sides differ in length.
    """
    first_N, second_N = np.asarray(before_N, dtype=bool), np.asarray(after_N, dtype=bool)
    if first_N.shape != second_N.shape or first_N.ndim != 1:
        raise DataError(
            expected="the same items before and after", got=f"{first_N.shape} and {second_N.shape}"
        )
    gained = int((~first_N & second_N).sum())
    changed = gained + int((first_N & ~second_N).sum())
    fewer = min(gained, changed - gained)
    # Exact integers: a float would underflow beyond a thousand changed items.
    tail = sum(math.comb(changed, k) for k in range(fewer + 1))
    return min(1.0, 2 * tail / 2**changed)


def normal_p(delta: float, error: float) -> float:
    """Two-sided p-value of a difference with its standard error, by the normal approximation.

    With the bootstrap's standard error it has no floor at 1 / resamples, which a correction
    for many comparisons would turn into "never". 1 for no difference, nan for an unknown one.
    """
    if math.isnan(delta) or math.isnan(error):
        return math.nan
    if delta == 0:
        return 1.0
    return math.erfc(abs(delta) / error / math.sqrt(2)) if error > 0 else 0.0


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values by Holm (Scand. J. Statist. 1979): below a, at most a that any is a false claim.

    nan stays nan and is no member of the family.
    """
    return _stepwise(p_values, lambda rank, count: count - rank, up=True)


def benjamini_hochberg(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values by Benjamini and Hochberg (JRSS B 1995): the expected share of false claims."""
    return _stepwise(p_values, lambda rank, count: count / (rank + 1), up=False)


def adjust(p_values: Sequence[float], correction: str) -> list[float]:
    """By the name used in settings: holm, benjamini_hochberg or none."""
    match correction:
        case "holm":
            return holm(p_values)
        case "benjamini_hochberg":
            return benjamini_hochberg(p_values)
        case "none":
            return list(p_values)
    raise DataError(expected="a correction: holm, benjamini_hochberg or none", got=repr(correction))


def _stepwise(p_values: Sequence[float], factor: Callable[[int, int], float], *, up: bool) -> list[float]:
    """Each p times its rank's factor, made monotone from the smallest up or the largest down."""
    adjusted = [math.nan] * len(p_values)
    order = sorted((i for i, p in enumerate(p_values) if not math.isnan(p)), key=lambda i: p_values[i])
    scaled = [min(1.0, p_values[i] * factor(rank, len(order))) for rank, i in enumerate(order)]
    monotone = np.maximum.accumulate(scaled) if up else np.minimum.accumulate(scaled[::-1])[::-1]
    for i, value in zip(order, monotone, strict=True):
        adjusted[i] = float(value)
    return adjusted
