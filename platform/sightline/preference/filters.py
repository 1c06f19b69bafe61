"""What is dropped between finding pairs and training on them, and counted by reason.

Identical sides, repeated pairs, sides of very different length; and, over all pairs
together, balances against what training would otherwise learn instead: of lengths, so
that it is not "shorter", and of yes and no, so that it is not "yes".
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from sightline.metrics.objects import words
from sightline.metrics.yes_no import parse_strict
from sightline.records import PreferencePair

_CUTS = np.linspace(0.0, 1.0, 51)


@dataclass(frozen=True, slots=True)
class Selection:
    """The pairs that stay, and why the others went: reason -> count."""

    pairs: tuple[PreferencePair, ...]
    dropped: dict[str, int]


def select(
    pairs: Sequence[PreferencePair],
    *,
    max_length_ratio: float = 2.0,
    balance: frozenset[str] = frozenset({"caption"}),
    max_yes_share: float = 1.0,
    tolerance: float = 0.02,
    min_kept: float = 0.5,
) -> Selection:
    """Every filter in turn. Length rules apply to the conditions in `balance` only.

    A short answer ("Yes.") may rightly be much shorter than its rival; a caption may not.
    At most `max_yes_share` of the pairs between yes and no prefer yes: what is asked
    about is usually in the image, so without a limit the wrong image mostly yields
    "Yes." over "No.", and the model would learn to say yes.
    """
    reasons: Counter[str] = Counter()
    kept: list[PreferencePair] = []
    seen: set[tuple[str, ...]] = set()
    for pair in pairs:
        reason = _reason(pair, seen, max_length_ratio if pair.condition in balance else None)
        if reason:
            reasons[reason] += 1
        else:
            kept.append(pair)
    for condition in sorted(balance):
        group = [i for i, pair in enumerate(kept) if pair.condition == condition]
        lengths = np.array([(words(kept[i].chosen), words(kept[i].rejected)) for i in group]).reshape(-1, 2)
        keep = balanced(lengths[:, 0], lengths[:, 1], tolerance=tolerance, min_kept=min_kept)
        out = {i for i, stays in zip(group, keep, strict=True) if not stays}
        reasons["length_balance"] += len(out)
        kept = [pair for i, pair in enumerate(kept) if i not in out]
    surplus = yes_surplus(kept, max_yes_share)
    reasons["yes_share"] += len(surplus)
    kept = [pair for pair in kept if pair.pair_id not in surplus]
    return Selection(tuple(kept), dict(+reasons))


def yes_surplus(pairs: Sequence[PreferencePair], max_yes_share: float) -> set[str]:
    """Ids of the pairs that prefer yes over no beyond their share, chosen by hash, not by order."""
    directions = {p.pair_id: (parse_strict(p.chosen), parse_strict(p.rejected)) for p in pairs}
    yes = [pair_id for pair_id, direction in directions.items() if direction == ("yes", "no")]
    no = [pair_id for pair_id, direction in directions.items() if direction == ("no", "yes")]
    if max_yes_share >= 1.0:
        return set()
    # share = yes / (yes + no), hence yes = no * share / (1 - share).
    allowed = int(len(no) * max_yes_share / (1.0 - max_yes_share))
    return set(sorted(yes, key=lambda pair_id: hashlib.sha256(pair_id.encode()).digest())[allowed:])


def balanced(
    chosen_N: np.ndarray, rejected_N: np.ndarray, *, tolerance: float = 0.02, min_kept: float = 0.5
) -> np.ndarray:
    """Which pairs to keep so that chosen and rejected are equally long on average. [N] bool.

    RLAIF-V (`get_pairs_filter_shorten.py`): raise a cut on the length ratio in steps of
    0.02, dropping the most lopsided pairs of the longer-on-average side's losers, until
    the means agree within `tolerance` (relative). Cuts that would keep less than
    `min_kept` of the pairs are not made; then the best one before them stands.
    """
    if len(chosen_N) == 0:
        return np.zeros(0, dtype=bool)
    shorter_N, longer_N = (
        (chosen_N, rejected_N) if chosen_N.mean() <= rejected_N.mean() else (rejected_N, chosen_N)
    )
    ratio_N = shorter_N / np.maximum(longer_N, 1)
    best, best_gap = np.ones(len(chosen_N), dtype=bool), np.inf
    for keep_N in _cuts(ratio_N):
        if keep_N.sum() < min_kept * len(ratio_N):
            break
        gap = abs(chosen_N[keep_N].mean() - rejected_N[keep_N].mean()) / max(1.0, rejected_N[keep_N].mean())
        if gap < best_gap - 1e-12:
            best, best_gap = keep_N, gap
        if gap <= tolerance:
            break
    return best


def _cuts(ratio_N: np.ndarray) -> Iterator[np.ndarray]:
    for cut in _CUTS:
        keep_N = ratio_N >= cut
        if keep_N.any():
            yield keep_N


def _reason(pair: PreferencePair, seen: set[tuple[str, ...]], max_length_ratio: float | None) -> str:
    if not pair.chosen.strip() or not pair.rejected.strip():
        return "empty"
    if pair.chosen.strip() == pair.rejected.strip():
        return "identical"
    if max_length_ratio is not None:
        short, long = sorted((max(1, words(pair.chosen)), max(1, words(pair.rejected))))
        if long > max_length_ratio * short:
            return "length"
    key = (pair.image_id, pair.question, pair.context, pair.chosen.strip(), pair.rejected.strip())
    if key in seen:
        return "repeated"
    seen.add(key)
    return ""
