"""Pairs of captions, one clean and one hallucinated, from files other people made.

`chosen` is the clean caption, `rejected` the hallucinated one: what textual steering directions
are derived from, in the form that preference pairs have everywhere else.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from sightline.data.pairs import check_pairs
from sightline.errors import DataError
from sightline.records import PreferencePair

QUESTION = "Describe this image in detail."
"""Asked where a row brings no question; VTI asks nothing else."""
Plurals = Callable[[str], Sequence[str]]
Reader = Callable[[Mapping[str, Any], str], PreferencePair | None]
_SENTENCE = re.compile(r"(?<=[.!?])\s+")


def read_vti(
    path: str | Path, *, image_root: str | Path | None = None, limit: int | None = None, seed: int = 42
) -> list[PreferencePair]:
    """VTI's JSONL: `image`, `value` (clean), `h_value` (hallucinated), `question`, `id`.

    Raises DataError naming the line that lacks one of the first three, PairError or ImageError as
    `check_pairs` does.
    """
    return _read(path, _from_vti, image_root=image_root, limit=limit, seed=seed)


def read_chair(
    path: str | Path,
    plurals: Plurals,
    *,
    image_root: str | Path | None = None,
    limit: int | None = None,
    seed: int = 42,
) -> list[PreferencePair]:
    """A CHAIR-annotated JSONL: `image`, `caption`, `hallucinated` (or CHAIR's own
    `mscoco_hallucinated_words`), and maybe `question` and `id`.

    CHAIR names singulars, so `plurals` (`metrics.objects.plurals`) says how else a word is spelled.
    Captions without a hallucinated word, and those with one in every sentence, make no pair.
    Raises DataError as `read_vti` does, and where not one pair is left.
    """
    reader = partial(_from_chair, plurals=plurals)
    return _read(path, reader, image_root=image_root, limit=limit, seed=seed)


def without_sentences(caption: str, words: Sequence[str], plurals: Plurals) -> str:
    """The caption without the sentences that hold one of `words`, in any case, singular or plural."""
    forms = [form for word in words if word.strip() for form in (word.strip(), *plurals(word.strip()))]
    if not forms:
        return caption
    found = re.compile(rf"\b(?:{'|'.join(map(re.escape, forms))})\b", re.IGNORECASE)
    return " ".join(s for s in _SENTENCE.split(caption.strip()) if not found.search(s))


def _read(
    path: str | Path, reader: Reader, *, image_root: str | Path | None, limit: int | None, seed: int
) -> list[PreferencePair]:
    path = Path(path).absolute()
    root = Path(image_root) if image_root is not None else path.parent
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(expected="a readable JSONL file", got=f"{path} ({error})") from error
    pairs = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            pair = reader(_row(line, f"{path}:{number}"), f"{path}:{number}")
            if pair is not None:
                pairs.append(_placed(pair, root, f"line-{number:06d}"))
    if not pairs:
        raise DataError(
            expected=f"at least one pair of captions in {path}",
            got=f"none in {len(lines)} lines",
            hint="a pair needs a hallucinated word, and a sentence without one",
        )
    if limit is not None and limit < len(pairs):
        pairs = random.Random(seed).sample(pairs, limit)
    check_pairs(pairs, where=str(path))
    return pairs


def _row(line: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise DataError(expected="one JSON object a line", got=f"{where} ({error})") from error
    if not isinstance(row, dict):
        raise DataError(expected="one JSON object a line", got=f"{type(row).__name__} at {where}")
    return row


def _from_vti(row: Mapping[str, Any], where: str) -> PreferencePair:
    return _pair(row, _text(row, "value", where), _text(row, "h_value", where), "vti", where)


def _from_chair(row: Mapping[str, Any], where: str, *, plurals: Plurals) -> PreferencePair | None:
    caption = _text(row, "caption", where)
    words = row.get("hallucinated", row.get("mscoco_hallucinated_words"))
    if not isinstance(words, list):
        raise DataError(
            expected="a list of words in `hallucinated` or `mscoco_hallucinated_words`",
            got=f"{words!r} at {where}",
        )
    # CHAIR's own output gives (word in the caption, node word).
    named = [word if isinstance(word, str) else str(word[0]) for word in words]
    clean = without_sentences(caption, named, plurals)
    return _pair(row, clean, caption, "chair", where) if clean and clean != caption else None


def _pair(row: Mapping[str, Any], clean: str, wrong: str, source: str, where: str) -> PreferencePair:
    return PreferencePair(
        pair_id=str(row.get("id", "")),
        example_id="",
        image_id=str(row.get("image_id", "")),
        image_uri=_text(row, "image", where),
        question=str(row.get("question") or QUESTION),
        context="",
        chosen=clean,
        rejected=wrong,
        condition=source,
    )


def _placed(pair: PreferencePair, root: Path, line: str) -> PreferencePair:
    """With an absolute image, and an id even where the row has none: its line."""
    uri = pair.image_uri if "://" in pair.image_uri else str(root / pair.image_uri)
    return replace(pair, image_uri=uri, pair_id=f"{line}/{pair.pair_id}" if pair.pair_id else line)


def _text(row: Mapping[str, Any], name: str, where: str) -> str:
    value = row.get(name)
    if not isinstance(value, str) or not value.strip():
        raise DataError(expected=f"a text in `{name}`", got=f"{value!r} at {where}")
    return value
