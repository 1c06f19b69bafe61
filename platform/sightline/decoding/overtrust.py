"""OPERA's mathematics (arXiv 2311.17911): how much a token trusts a summary, and which one.

A model that hallucinates often leans on one earlier token of its own answer: a dark column
in the attention of the answer to itself. With w_ij the attention that answer token i pays to
answer token j (last layer, largest over the heads, renormalised over all keys), a column's
score is prod_{i >= j} scale * w_ij (Eq. 3 and 4), the penalty the largest score (Eq. 5), and the
place of over-trust the column that has it.

Products are carried as sums of logarithms, one number a column: the matrix itself is never
needed again, and nothing over- or underflows. METHODS 1.9 lists what the released code does;
the modes differ in this:

            paper                                    released
penalty     of the column at every token             the first 10 tokens: minus the attention on the
                                                     image (shikiw/OPERA issue 48: "hard coded")
precision   exact                                    rounded to float16: 0 below 3e-8, at most 65,504;
                                                     among equals the first column is the place
history     follows the beams                        stays with a beam's number when beams change
after a     the other candidates, with their         the other tokens, without a penalty
rollback    penalties

Both have the released factor 1e-7, which the equations do not: without it the penalty of an
ordinary answer outweighs every logit after a few tokens.

Names: K beams, C candidates, N answer tokens before the candidate, M = N + 1 with it.
"""

from __future__ import annotations

import numpy as np

FACTOR = 1e-7
EARLY = 10
"""Tokens that `released` judges by the image; in both modes, places that are never gone back to."""
_LARGEST = 300.0
"""Natural logarithm at which a product is cut off: beyond it no logit matters anyway."""


def extended(columns_KN: np.ndarray, weights_KCM: np.ndarray, scale: float) -> np.ndarray:
    """Log column products (K, C, M) with one more row of attention under the matrix.

    `columns_KN`: those of the tokens before; `weights_KCM`: what each candidate pays to the
    answer's tokens and, last, to itself.
    """
    with np.errstate(divide="ignore"):
        log_KCM = np.log(weights_KCM.astype(np.float64)) + np.log(scale)
    log_KCM[..., :-1] += columns_KN[:, None]
    return log_KCM


def over_trust(log_KCM: np.ndarray, *, released: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Each candidate's penalty (K, C) and its column (K, C)."""
    places_KC = log_KCM.argmax(-1)
    if not released:
        return FACTOR * np.exp(np.minimum(log_KCM.max(-1), _LARGEST)), places_KC
    limit = np.finfo(np.float16).max
    rounded_KCM = np.minimum(FACTOR * np.exp(np.minimum(log_KCM, _LARGEST)), limit).astype(np.float16)
    return rounded_KCM.max(-1).astype(np.float64), rounded_KCM.argmax(-1)


def most_frequent(values: np.ndarray) -> np.ndarray:
    """Along the last axis; the smallest among equally frequent ones."""
    ordered = np.sort(values, axis=-1)
    counts = (ordered[..., :, None] == ordered[..., None, :]).sum(-1)
    return np.take_along_axis(ordered, counts.argmax(-1)[..., None], -1)[..., 0]


def summary_place(history_KM: np.ndarray, live_K: np.ndarray, threshold: int) -> int | None:
    """The place that the live beams point at now, if every one did more than `threshold` times."""
    history_LM = history_KM[live_K]
    place = int(most_frequent(history_LM[:, -1]))
    often = ((history_LM == place).sum(-1) > threshold).all()
    return place if often and place >= EARLY else None
