"""What HALP's files mean (EACL 2026, alliedbrother/HALP_EACL), in our terms.

    <question_id>/image_id, question, ground_truth_answer, answer        texts
    <question_id>/vision_only_representation                             [D], gzip
    <question_id>/vision_token_representation/layer_<i>                  [D], gzip
    <question_id>/query_token_representation/layer_<i>                   [D], gzip

in files `<model>_embeddings_part_001.h5` of 1,000 questions with the attributes model_name,
model_type, device, dtype, created_at and num_samples. Names and numbers in them mean
different things from model to model, hence a `Convention`:

* layers "hidden_states" (their SmolVLM and LLaVA): i indexes `output_hidden_states`, so
  layer_0 is the embedding and layer_i our layer i-1; their n-1 is not the last block.
  layers "blocks" (their Gemma and Qwen, read by hooks): layer_i is our layer i.
* Their query token is the last token of the chat template, our `prompt_token`; at the
  embedding that is one constant vector. Their "vision token" is a guessed position.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args
from urllib.parse import unquote

from sightline.activations.sites import Kind, Site, default_layers, sites_at
from sightline.errors import DataError

Layers = Literal["hidden_states", "blocks"]
Query = Literal["query_token", "prompt_token"]

PART_ROWS = 1000
LABEL_COLUMN = "is_hallucinating_manual"
TEXTS = {"image_id": "image_id", "question": "question", "ground_truth_answer": "truth", "answer": "answer"}
"""HALP's name of a text -> our column."""
VISION_ONLY, VISION, QUERY = (
    f"{kind}_representation" for kind in ("vision_only", "vision_token", "query_token")
)
_LAYERS, _QUERY, _ENCODED = "sightline_layers", "sightline_query_token", "sightline_ids_percent_encoded"


@dataclass(frozen=True, slots=True)
class Convention:
    """Which of our layers `layer_<i>` is, and which of our positions the query token is."""

    layers: Layers = "hidden_states"
    query: Query = "prompt_token"

    def path(self, site: Site) -> str | None:
        """Where a site lies in a question's group; None if the layout has no place for it."""
        if site.layer is None:
            return VISION_ONLY
        group = {"vision_token": VISION, self.query: QUERY}.get(site.kind)
        index = site.layer + self._shift
        return f"{group}/layer_{index}" if group and index >= 0 else None

    def site(self, path: str) -> Site:
        """The inverse of `path`. Raises `DataError` for a name that is none of the layout's."""
        if path == VISION_ONLY:
            return Site("vision_only")
        group, _, layer = path.partition("/")
        match = re.fullmatch(r"layer_(\d+)", layer)
        if match is None or group not in (VISION, QUERY):
            raise DataError(expected="layer_<number> in a group of HALP's layout", got=path)
        kind: Kind = "vision_token" if group == VISION else self.query
        return Site(kind, int(match[1]) - self._shift)

    def attributes(self) -> dict[str, Any]:
        """What a file of ours says, so that it can be read back without being told."""
        return {_LAYERS: self.layers, _QUERY: self.query, _ENCODED: True}

    def said_by(self, attributes: Mapping[str, Any]) -> Convention:
        """This convention, unless a file names its own."""
        layers, query = attributes.get(_LAYERS, self.layers), attributes.get(_QUERY, self.query)
        if layers not in get_args(Layers) or query not in get_args(Query):
            raise DataError(
                expected=f"layers among {get_args(Layers)} and a query token among {get_args(Query)}",
                got=f"{layers!r} and {query!r}",
            )
        return Convention(layers, query)

    @property
    def _shift(self) -> int:
        return 1 if self.layers == "hidden_states" else 0


def halp_sites(num_layers: int) -> tuple[Site, ...]:
    """What HALP's SmolVLM extraction read: hidden_states[0, n//4, n//2, 3n//4, n-1] and vision_only."""
    layers = [i - 1 for i in default_layers(num_layers)]
    return sites_at(("vision_only", "vision_token", "prompt_token"), layers)


def group_name(row_id: str) -> str:
    """An id as the name of a group: "/" would nest groups, so it becomes %2F (and % becomes %25)."""
    name = row_id.replace("%", "%25").replace("/", "%2F")
    return name.replace(".", "%2E") if name.strip(".") == "" else name


def row_id(name: str, attributes: Mapping[str, Any]) -> str:
    """The id of a group: as it stands, unless the file says that it was encoded."""
    return unquote(name) if attributes.get(_ENCODED) else name
