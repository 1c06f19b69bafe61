"""Claims judged one by one: HaELM's question to a language model, asked of each sentence.

HaELM (Wang et al. 2023) asks a model that has read the reference captions whether a response
hallucinates; RLAIF-V asks it of each claim. Both are here: a response is split into claims,
the judge (`metrics.judging`) answers yes or no for each, and a response hallucinates when one
claim does. A reply that is neither is counted, and its claim has no weight.
"""

from __future__ import annotations

import re
from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass

from sightline.errors import DataError
from sightline.metrics.bootstrap import Ratio
from sightline.metrics.judging import Judge, ask

_SENTENCE = re.compile(r"[^.!?\n]+(?:[.!?](?=\d)[^.!?\n]*)*[.!?]*")
_REPLY = re.compile(r"^\W*(yes|no)\b", re.IGNORECASE)

TEMPLATE = """An image was described by people as follows:
{}

Does this claim about the image say something that these descriptions contradict or do not support?
Claim: {}

Answer yes or no."""
"""Two gaps: the reference captions and the claim. "yes" means hallucinated."""


@dataclass(frozen=True, slots=True)
class Claimed:
    """A response claim by claim; `hallucinated[i]` is None where the judge's reply was neither yes nor no."""

    claims: tuple[str, ...]
    hallucinated: tuple[bool | None, ...]


def split(response: str) -> tuple[str, ...]:
    """The sentences of a response that hold a word; each is a claim. No sentence, no claim."""
    sentences = (found.strip() for found in _SENTENCE.findall(response))
    return tuple(s for s in sentences if re.search(r"[^\W_]", s))


def read(reply: str) -> bool | None:
    """Does the judge say that the claim is hallucinated? None when it says neither yes nor no."""
    found = _REPLY.match(reply)
    return None if found is None else found.group(1).lower() == "yes"


def judge_claims(
    responses: Sequence[str],
    references: Sequence[Sequence[str]],
    judge: Judge,
    *,
    name: str,
    template: str = TEMPLATE,
    cache: MutableMapping[str, str] | None = None,
) -> list[Claimed]:
    """Each response judged against its reference captions. Raises DataError for unequal lengths."""
    if len(responses) != len(references):
        raise DataError(
            expected="the reference captions of each response",
            got=f"{len(responses)} responses, {len(references)} lists of references",
        )
    judged = []
    for response, known in zip(responses, references, strict=True):
        claims = split(response)
        prompts = [template.format("\n".join(known), claim) for claim in claims]
        replies = ask(prompts, judge, name=name, cache=cache)
        judged.append(Claimed(claims, tuple(read(reply) for reply in replies)))
    return judged


def tally(judged: Sequence[Claimed]) -> dict[str, Ratio]:
    """Per-response counts: `hallucination_rate` (a claim is hallucinated / responses with a readable
    reply), `claim_error_rate` (hallucinated / judged claims), `unparsed_rate` (unread replies /
    claims), `claims` a response, `empty_rate` (responses without a claim)."""
    bad = [sum(h is True for h in c.hallucinated) for c in judged]
    readable = [sum(h is not None for h in c.hallucinated) for c in judged]
    total = [len(c.claims) for c in judged]
    return {
        "hallucination_rate": Ratio.of([b > 0 for b in bad], [r > 0 for r in readable]),
        "claim_error_rate": Ratio.of(bad, readable),
        "unparsed_rate": Ratio.of([t - r for t, r in zip(total, readable, strict=True)], total),
        "claims": Ratio.of(total),
        "empty_rate": Ratio.of([not t for t in total]),
    }
