"""Preference pairs on disk, read and checked as a whole before any work starts."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

from sightline.errors import ImageError, PairError
from sightline.records import PreferencePair

_REQUIRED = ("pair_id", "image_uri", "question", "chosen", "rejected")
_DEFAULTS = {"example_id": "", "image_id": "", "context": "", "condition": "dataset"}


def read_pairs(path: str | Path, *, image_root: str | Path | None = None) -> list[PreferencePair]:
    """Pairs from a parquet file, or from a folder's `*.parquet` files in name order.

    Needs the columns `pair_id, image_uri, question, chosen, rejected`; the other fields of
    PreferencePair may be missing. Relative image paths start from `image_root` (default: the
    folder). Raises PairError or ImageError as `check_pairs` does.
    """
    import pyarrow.parquet as pq

    path = Path(path).absolute()
    folder = path if path.is_dir() else path.parent
    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    files = [file for file in files if file.name not in ("errors.parquet", "manifest.parquet")]
    if not files or not files[0].is_file():
        raise PairError(
            expected="a parquet file of preference pairs, or a folder of them",
            got=f"nothing at {path}",
            hint="check `pairs=`, or leave it out to mine pairs",
        )
    pairs = []
    for file in files:
        table = pq.read_table(file)
        missing = [name for name in _REQUIRED if name not in table.column_names]
        if missing:
            raise PairError(expected=f"columns {', '.join(_REQUIRED)}", got=f"{file} without {missing}")
        for row in table.to_pylist():
            row = _DEFAULTS | row
            row["image_uri"] = _absolute(row["image_uri"] or "", Path(image_root or folder))
            pairs.append(PreferencePair.from_row(row))
    check_pairs(pairs, where=str(path))
    return pairs


def check_pairs(pairs: Sequence[PreferencePair], *, where: str) -> None:
    """Raises PairError for no pairs, an id given twice, a side that is empty or equal to the other;
    ImageError for images that do not exist."""
    if not pairs:
        raise PairError(
            expected="at least one preference pair",
            got=f"none in {where}",
            hint="the model may answer every mined example rightly; mine more or harder ones",
        )
    one_sided = [pair.pair_id for pair in pairs if not _text(pair.chosen) or not _text(pair.rejected)]
    if one_sided:
        raise PairError(
            expected="a chosen and a rejected answer in every pair",
            got=f"{len(one_sided)} of {len(pairs)} in {where} without both, the first being {one_sided[0]!r}",
        )
    equal = [pair.pair_id for pair in pairs if _text(pair.chosen) == _text(pair.rejected)]
    if equal:
        raise PairError(
            expected="two different answers in every pair",
            got=f"{len(equal)} of {len(pairs)} in {where} with equal ones, the first being {equal[0]!r}",
        )
    ids = {pair.pair_id for pair in pairs}
    if len(ids) < len(pairs):
        raise PairError(expected="a unique pair_id in every row", got=f"{len(pairs)} rows, {len(ids)} ids")
    uris = {pair.image_uri for pair in pairs if pair.image_uri and "://" not in pair.image_uri}
    lost = sorted(uri for uri in uris if not os.path.isfile(uri))
    if lost:
        raise ImageError(
            expected=f"every image of {where} to exist",
            got=f"{len(lost)} of {len(uris)} missing, the first being {lost[0]}",
            hint="relative paths start from the folder of the pairs",
        )


def row_hash(pair: PreferencePair) -> str:
    """What a pair's log-probabilities depend on, as a short hash: texts and image."""
    parts = [pair.sha256 or pair.image_uri, pair.question, pair.context, pair.chosen, pair.rejected]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]


def _text(answer: str | None) -> str:
    return (answer or "").strip()


def _absolute(uri: str, root: Path) -> str:
    return uri if not uri or "://" in uri else str(root / uri)
