"""Medical hallucination questions in the form of MedHallBench and MedVH -> examples.

MedHallBench has published no data and MedVH only part of it, so the form is the common one: a
JSON list or JSON lines of image, question and answer under the usual names, `options` for
multiple choice (an object of letter -> text, or a list), and for questions that do not belong to
the image the option "Not a suitable question for the image". All of it counts as under a use
agreement: every example is marked restricted.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sightline.data.documents import objects_of
from sightline.data.examples import from_rows, wrong
from sightline.data.licences import RESTRICTED
from sightline.data.tables import asks_yes_or_no, kind_of
from sightline.records import Example

NAMES = {
    "example_id": ("id", "question_id", "qid"),
    "image": ("image", "image_path", "img_name", "image_name", "img"),
    "question": ("question", "text", "query"),
    "answer": ("answer", "gt_answer", "label", "gt", "ground_truth"),
}
"""What each thing is called here and there; the first name found counts."""
_UNSUITABLE = re.compile(r"not (?:a )?suitable (?:question|image)", re.IGNORECASE)
_LETTERS = "ABCDEFGHIJ"


def read_medhall(
    path: str | Path, *, image_root: str | Path | None = None, limit: int | None = None
) -> list[Example]:
    """The questions of a file; with options, they are written under the question, a line each.

    `split` is the row's type and the form of the answer: `_choice`, `_yes_no` or `_open`. `meta` has
    `options`, `gold` (the letter) and `unsuitable` where there are options. Images start from
    `image_root` (default: the folder of the file). Raises DataError naming the row.
    """
    path = Path(path).absolute()
    return from_rows(_rows(path), path, image_root or path.parent, limit)


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, row in objects_of(path, "medhall"):
        found = {field: next((row[n] for n in names if n in row), None) for field, names in NAMES.items()}
        if missing := [f for f in ("image", "question", "answer") if found[f] in (None, "")]:
            names = "; ".join(" or ".join(NAMES[f]) for f in missing)
            raise wrong(path, number, f"a value for {names}", f"only {', '.join(row)}")
        options = _options(row.get("options") or row.get("choices") or {})
        question, answer = str(found["question"]), str(found["answer"])
        yes_no = not options and (kind_of(answer) == "yes_no" or asks_yes_or_no(question))
        form = "choice" if options else "yes_no" if yes_no else "open"
        yield (
            number,
            {
                "example_id": f"medhall/{found['example_id'] or f'row {number}'}",
                "image_id": Path(str(found["image"])).stem,
                "image_uri": str(found["image"]),
                "question": "\n".join([question, *(f"{k}. {text}" for k, text in options.items())]),
                "kind": "yes_no" if yes_no else "open",
                "answer": answer,
                "split": f"{row.get('type') or row.get('split') or 'medhall'}_{form}",
                "source": "medhall",
                "meta": {RESTRICTED: True} | (_choice(answer, options) if options else {}),
            },
        )


def _options(given: Any) -> dict[str, str]:
    if isinstance(given, dict):
        return {str(letter).strip().upper()[:1]: str(text) for letter, text in given.items()}
    return {letter: str(text) for letter, text in zip(_LETTERS, given, strict=False)}


def _choice(answer: str, options: dict[str, str]) -> dict[str, Any]:
    """The gold letter (the answer may be the letter or the option's text), and what it means."""
    letter = answer.strip().upper()[:1] if len(answer.strip().rstrip(".)")) == 1 else ""
    gold = letter or next((k for k, text in options.items() if text.strip() == answer.strip()), "")
    text = options.get(gold, answer)
    return {"options": options, "gold": gold, "unsuitable": bool(_UNSUITABLE.search(text))}
