"""One question answered with and without mitigations, as columns of text next to each other."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sightline.config.mitigations import Mitigation

if TYPE_CHECKING:
    from sightline.models.prompts import Prompt
    from sightline.models.vlm import Vlm

_GAP = "   "


@dataclass(frozen=True, slots=True)
class Column:
    """An answer and what it took."""

    name: str
    answer: str
    tokens: int
    elapsed_ms: float
    """From prompt to last token; the model was warm."""


def ask(vlm: Vlm, prompt: Prompt, mitigations: Sequence[Mitigation], *, max_new_tokens: int) -> list[Column]:
    """The prompt answered greedily, then with `mitigations`.

    Raises what `Mitigated` raises, before the model has answered anything.
    """
    from sightline.mitigations import Mitigated

    columns = []
    for model in [Mitigated(vlm, items) for items in ((), mitigations)]:
        # The first answer of a process pays for what is set up once.
        model.generate([prompt], max_new_tokens=1)
        started = time.perf_counter()
        (answer,) = model.generate([prompt], max_new_tokens=max_new_tokens)
        elapsed_ms = 1000 * (time.perf_counter() - started)
        columns.append(Column(model.describe(), answer.text, len(answer.token_ids), elapsed_ms))
    return columns


def table(columns: Sequence[Column], width: int) -> str:
    """Lines of at most `width` characters: names, answers (wrapped), tokens and time."""
    rows = {
        "": [column.name for column in columns],
        "answer": [column.answer for column in columns],
        "tokens": [str(column.tokens) for column in columns],
        "ms": [f"{column.elapsed_ms:.0f}" for column in columns],
    }
    label = max(len(name) for name in rows)
    most = max(8, (width - label - len(columns) * len(_GAP)) // len(columns))
    longest = max(len(text) for texts in rows.values() for text in texts)
    cell = min(most, longest)
    lines = []
    for name, texts in rows.items():
        wrapped = [textwrap.wrap(text, cell) or [""] for text in texts]
        for i in range(max(map(len, wrapped))):
            parts = [name if i == 0 else "", *(w[i] if i < len(w) else "" for w in wrapped)]
            widths = [label, *[cell] * len(columns)]
            lines.append(_GAP.join(f"{p:<{n}}" for p, n in zip(parts, widths, strict=True)).rstrip())
    return "\n".join(lines)
