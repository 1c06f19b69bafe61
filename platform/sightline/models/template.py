"""The chat template, taken apart once: what stands around the question and the answer.

The template is rendered with two marks instead of the texts, so the positions of the
real texts are known by construction and no rendered string is ever searched. It knows
strings only, no tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sightline.errors import SpanError

_QUESTION, _ANSWER = "\u2402question\u2403", "\u2402answer\u2403"

Render = Callable[[Sequence[dict[str, Any]], bool], str]
"""(messages, add_generation_prompt) -> the template's string."""


@dataclass(frozen=True, slots=True)
class Frame:
    """The strings around the texts: head + question + tail, then lead + answer + end."""

    head: str
    """Up to the question, the image's placeholder included (if the prompt has an image)."""
    tail: str
    """From the question to the point where the assistant speaks."""
    lead: str
    """What the template puts before the answer (often one space)."""
    end: str
    """The turn-ending special token, with what the template puts between answer and it."""

    def prompt(self, question: str) -> str:
        """The string a model is to continue."""
        return f"{self.head}{question}{self.tail}"

    def answer(self, text: str) -> str:
        """The string that continues a prompt with a given answer."""
        return f"{self.lead}{text}{self.end}"


def derive_frame(render: Render, *, with_image: bool, special_tokens: Iterable[str], eos_token: str) -> Frame:
    """Render the template once without and once with an answer, and cut it at the marks.

    The turn-ending token is the first special token after the answer; a template that
    writes none (LLaVA-1.5) ends its turns with `eos_token`.
    """
    image = [{"type": "image"}] if with_image else []
    user = {"role": "user", "content": [*image, {"type": "text", "text": _QUESTION}]}
    assistant = {"role": "assistant", "content": [{"type": "text", "text": _ANSWER}]}
    prompt, full = render([user], True), render([user, assistant], False)
    if prompt.count(_QUESTION) != 1 or full.count(_ANSWER) != 1:
        raise SpanError(expected="a chat template that writes each text once", got=repr(prompt))
    if not full.startswith(prompt):
        raise SpanError(
            expected="a chat template whose generation prompt begins the assistant's turn",
            got=f"{prompt!r} and {full!r}",
        )
    head, tail = prompt.split(_QUESTION)
    lead, after = full[len(prompt) :].split(_ANSWER)
    ends = [(after.index(token), token) for token in special_tokens if token in after]
    # Several tokens may start at one place ("<|im" of "<|im_end|>"): the longest is meant.
    end = after[: (found := min(ends, key=lambda e: (e[0], -len(e[1]))))[0]] + found[1] if ends else eos_token
    return Frame(head, tail, lead, end)
