"""Where the image, the question, the generation prompt and the answer are, in tokens.

Positions come from the processor's own placeholder ids (image) and from the characters
of the rendered chat template (everything else). Nothing is guessed: a boundary that
falls inside a token is a SpanError.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sightline.errors import SpanError


@dataclass(frozen=True, slots=True)
class Spans:
    """Token ranges of one unpadded sequence, in order; `slice`s that index ids directly.

    `image` holds one slice for each unbroken run of image tokens (several where an image
    is tiled; none for a text-only prompt). `question` is the user's text, a `Reference:`
    included. `generation` runs from the end of the question to the first answer token:
    the end of the user's turn and the opening of the assistant's. `answer` ends with the
    turn-ending token; it is empty when no answer was given.
    """

    image: tuple[slice, ...]
    question: slice
    generation: slice
    answer: slice

    def image_indices(self) -> list[int]:
        """Every image token's index, ascending."""
        return [i for run in self.image for i in range(run.start, run.stop)]


def runs_of(ids: Sequence[int], placeholder: int) -> tuple[slice, ...]:
    """Unbroken runs of `placeholder` in `ids`."""
    runs: list[slice] = []
    start = -1
    for i, token in enumerate(ids):
        if token == placeholder and start < 0:
            start = i
        elif token != placeholder and start >= 0:
            runs.append(slice(start, i))
            start = -1
    if start >= 0:
        runs.append(slice(start, len(ids)))
    return tuple(runs)


def token_range(
    text: str,
    char_range: tuple[int, int],
    char_to_token: Callable[[int], int | None],
    token_to_chars: Callable[[int], tuple[int, int] | None],
) -> slice:
    """Tokens that cover `text[start:stop]` and, white space aside, nothing more.

    Raises SpanError when a token at either end also holds characters from outside.
    """
    start, stop = char_range
    inside = text[start:stop]
    if not inside.strip():
        raise SpanError(expected="a text with visible characters", got=repr(inside))
    # White space at the ends may belong to a neighbouring token: look for the visible part.
    first_char = start + len(inside) - len(inside.lstrip())
    last_char = start + len(inside.rstrip()) - 1
    first, last = char_to_token(first_char), char_to_token(last_char)
    if first is None or last is None:
        raise SpanError(expected=f"tokens for {inside!r}", got="none from the tokenizer")
    first_chars, last_chars = token_to_chars(first), token_to_chars(last)
    before = text[first_chars[0] : start] if first_chars else ""
    after = text[stop : last_chars[1]] if last_chars else ""
    if before.strip() or after.strip():
        raise SpanError(
            expected=f"token boundaries around {inside!r}",
            got=f"a token that also holds {(before + after).strip()!r}",
            hint="this tokenizer merges the template with the text; change the template",
        )
    return slice(first, last + 1)
