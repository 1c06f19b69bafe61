"""Where in a model an activation is taken: which position, after which block.

One convention for layers, everywhere: **layer i is the output of decoder block i**,
i = 0 .. n-1, before the final norm; so n-1 truly is the last block. What enters block 0
is the layer `EMBEDDING` (-1), called "embedding" in names. `halp.py` says how this maps
to HALP's numbers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

from sightline.errors import ConfigError

Kind = Literal["vision_only", "vision_token", "query_token", "prompt_token", "answer_mean"]
"""Which position is read.

vision_only    mean over the vision tower's last hidden state (all tiles, after its norm)
vision_token   the last image placeholder of the prompt
query_token    the last token of the user's question
prompt_token   the last token before the answer (the end of the generation prompt)
answer_mean    mean over the tokens of the answer
"""
KINDS: tuple[Kind, ...] = get_args(Kind)
EMBEDDING = -1
"""The layer "embedding": what goes into decoder block 0."""
_NAME = re.compile(r"^([a-z_]+)\.(?:layer_(\d+)|(embedding))$")


@dataclass(frozen=True, slots=True, order=True)
class Site:
    """One place. `layer` is None for vision_only, else -1 (embedding) or 0 .. n-1.

    Raises `ConfigError` for an unknown kind or a layer that does not fit it.
    """

    kind: Kind
    layer: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError(expected=f"a kind of site among {', '.join(KINDS)}", got=repr(self.kind))
        if self.kind == "vision_only" and self.layer is not None:
            raise ConfigError(
                expected="vision_only without a layer (it is the vision tower's output)",
                got=f"layer {self.layer}",
            )
        if self.kind != "vision_only" and (self.layer is None or self.layer < EMBEDDING):
            raise ConfigError(
                expected=f"a layer of 0 or more, or {EMBEDDING} for the embedding, with {self.kind}",
                got=str(self.layer),
                hint=f"write for example {self.kind}.layer_0 or {self.kind}.embedding",
            )

    @property
    def name(self) -> str:
        """ "vision_only", "query_token.layer_12" or "query_token.embedding"."""
        if self.layer is None:
            return self.kind
        return f"{self.kind}.{'embedding' if self.layer == EMBEDDING else f'layer_{self.layer}'}"

    @classmethod
    def parse(cls, text: str) -> Site:
        """The site of a name; the inverse of `name`. Raises `ConfigError`."""
        if text == "vision_only":
            return cls("vision_only")
        match = _NAME.match(text)
        if match is None or match[1] not in KINDS:
            raise ConfigError(
                expected="a site: vision_only, or KIND.layer_I or KIND.embedding with KIND among "
                + ", ".join(KINDS[1:]),
                got=repr(text),
            )
        return cls(match[1], EMBEDDING if match[3] else int(match[2]))

    def __str__(self) -> str:
        return self.name


def default_layers(num_layers: int) -> tuple[int, ...]:
    """First, quarter, half, three quarters, last: [0, n//4, n//2, 3n//4, n-1], each once."""
    if num_layers < 1:
        raise ConfigError(expected="a model with at least one decoder block", got=str(num_layers))
    n = num_layers
    return tuple(sorted({0, n // 4, n // 2, 3 * n // 4, n - 1}))


def sites_at(kinds: Iterable[Kind], layers: Iterable[int]) -> tuple[Site, ...]:
    """Every kind at every layer, kind by kind; vision_only, which has no layer, once."""
    layers = tuple(layers)
    return tuple(
        Site(kind, layer) for kind in kinds for layer in ((None,) if kind == "vision_only" else layers)
    )


def default_sites(num_layers: int) -> tuple[Site, ...]:
    """HALP's choice: vision_only, then vision_token and query_token at the default layers.

    11 sites for a model of five or more blocks.
    """
    return sites_at(("vision_only", "vision_token", "query_token"), default_layers(num_layers))
