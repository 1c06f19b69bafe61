"""Answers judged by another model: any function from a prompt to a text, asked once for each prompt.

A judge is somebody else's model and may return anything. What it said is kept as it came
(`Review.said`); the metric reads it, and counts what it cannot read. The cache is any mutable
mapping (`data.judgements` keeps one in a file), keyed by judge and prompt, so that scoring
twice asks once and an interrupted run goes on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, MutableMapping, Sequence

Judge = Callable[[str], str]
"""Prompt to text. It may be a local model, an HTTP client of the user's, or a person."""


def key_of(judge_name: str, prompt: str) -> str:
    """The cache's key: a hash of who was asked what."""
    return hashlib.sha256(f"{judge_name}\0{prompt}".encode()).hexdigest()


def ask(
    prompts: Sequence[str], judge: Judge, *, name: str, cache: MutableMapping[str, str] | None = None
) -> list[str]:
    """What the judge says to each prompt; equal prompts are asked once, cached ones not at all.

    A reply that is no text (None, a number) is kept as "", which no metric can read.
    """
    known: MutableMapping[str, str] = {} if cache is None else cache
    said = []
    for prompt in prompts:
        key = key_of(name, prompt)
        if key not in known:
            reply: object = judge(prompt)
            known[key] = reply if isinstance(reply, str) else ""
        said.append(known[key])
    return said
