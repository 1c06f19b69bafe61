"""POPE's editions, told apart by what is in a file, not by its name.

Four are about, and their scores cannot be compared: the official one of 2024 (3,000 questions a
split), the one of 2023 (another random split of 2,910; "imange" for "image" in 144 / 44 / 58
questions of random / popular / adversarial), VCD's (adversarial with 57 such typos, else
official), and the multi-turn `chat` files, which `data.pope` refuses. The fingerprint is a hash
of (image, question, answer) in order, the typo mended, so that line ends, key order and ids do
not matter; the number of typos tells the rest.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from sightline.data.examples import json_lines
from sightline.records import Example

TYPO = "imange"
UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Edition:
    """What a POPE file is. `name` is official-2024, 2023, vcd, chat or unknown."""

    name: str
    split: str
    questions: int
    images: int
    yes: int
    typos: int
    fingerprint: str

    def __str__(self) -> str:
        return (
            f"POPE {self.name}{f' ({self.split})' if self.split else ''}: {self.questions} questions, "
            f"{self.images} images, {self.yes} yes, {self.typos} typos, {self.fingerprint[:12]}"
        )


KNOWN: Mapping[str, tuple[str, Mapping[int, str]]] = MappingProxyType(
    {
        "0b9e747cb166d7cb6b43321d78da4b12366621f4edcbe23e2042a9db522e18d5": ("random", {0: "official-2024"}),
        "7a17071de1a15cabb775a9cbadc701b6bea4ea60d4ace1a7dc97babe1d514b31": (
            "popular",
            {0: "official-2024", 44: "2023"},
        ),
        "8936def6f1e93309c7531b510ec366b5f6afb1de9f51e063e4cdd8d530133d66": (
            "adversarial",
            {0: "official-2024", 57: "vcd", 58: "2023"},
        ),
        "353ad8cc453139bb9ca104080102534192864a5b082cb182eb41e17422e507ff": ("random", {144: "2023"}),
    }
)
"""Fingerprint -> split, and edition by number of typos. VCD's random and popular files are the official
ones; the numbers of the 2023 popular and adversarial files are as published, not read from them."""


def edition_of(examples: list[Example]) -> Edition:
    """The edition of one split's questions, in the order of the file."""
    rows = [(Path(e.image_uri).name, e.question, e.answer) for e in examples]
    return _edition(rows)


def edition_of_file(path: str | Path) -> Edition:
    """The edition of a POPE file; the multi-turn one, which cannot be read further, is named `chat`.

    Raises DataError when the file is missing or not JSON lines.
    """
    rows = [row for _, row in json_lines(Path(path).absolute()) if isinstance(row, dict)]
    if any(isinstance(row.get("text"), list) or isinstance(row.get("label"), list) for row in rows):
        images = len({str(row.get("image")) for row in rows})
        return Edition("chat", "", len(rows), images, 0, 0, _hash(json.dumps(rows, sort_keys=True)))
    return _edition([(Path(str(r.get("image"))).name, str(r.get("text")), str(r.get("label"))) for r in rows])


def _edition(rows: list[tuple[str, str, str]]) -> Edition:
    typos = sum(TYPO in question for _, question, _ in rows)
    mended = [
        (image, question.replace(TYPO, "image"), answer.strip().lower()) for image, question, answer in rows
    ]
    fingerprint = _hash("\n".join("\t".join(row) for row in mended))
    split, names = KNOWN.get(fingerprint, ("", {}))
    return Edition(
        name=names.get(typos, UNKNOWN),
        split=split,
        questions=len(rows),
        images=len({image for image, _, _ in rows}),
        yes=sum(answer == "yes" for _, _, answer in mended),
        typos=typos,
        fingerprint=fingerprint,
    )


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
