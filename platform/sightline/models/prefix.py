"""Prompts that begin alike are computed once: rows packed into a tree of tokens.

Rows that show the same image form one packed sequence. Sorted by their ids, each row
follows the path of the row before as far as the tokens agree (image, then context, then
the first words of the question) and appends only what is new; a 4-D mask lets every token
see its own ancestors and nothing else, and position ids count along the path. One forward
pass then gives every row exactly the hidden states, keys and values of its own separate
pass, because a causal decoder's state at a token depends on its ancestors alone.

Names: R rows, G packed sequences ("groups"), T packed tokens, A position axes (1 or 3),
D width, M longest path of a batch, H heads, E head width.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sightline.models.encoding import EncodedRow
from sightline.models.passes import announce, prompt_pass

if TYPE_CHECKING:
    from sightline.models.adapters.base import Adapter


@dataclass(frozen=True, slots=True)
class Packed:
    """Some rows as G packed, right-padded sequences."""

    ids_GT: torch.Tensor
    positions_AGT: torch.Tensor
    visible_GTT: torch.Tensor | None
    """True where a token sees another; None when no group branches (plain causal)."""
    group_R: list[int]
    path_R: list[np.ndarray]
    """For each row, in the caller's order: its group, and its tokens' places in it."""


def group_rows(adapter: Adapter, rows: Sequence[EncodedRow], *, reuse_prefix: bool = True) -> list[list[int]]:
    """Indices of rows that show the same image, in order of first appearance.

    Without `reuse_prefix` (or for a family that does not support it) each row stands alone.
    """
    if not (reuse_prefix and adapter.supports_prefix_reuse):
        return [[i] for i in range(len(rows))]
    groups: dict[Hashable, list[int]] = {}
    for i, row in enumerate(rows):
        groups.setdefault(adapter.image_key(row), []).append(i)
    return list(groups.values())


def pack(adapter: Adapter, model: Any, rows: Sequence[EncodedRow], groups: Sequence[Sequence[int]]) -> Packed:
    """Lay out `rows` as one token tree a group. Every row must be in exactly one group."""
    trees = [_tree([rows[i].ids for i in group]) for group in groups]
    longest = max(len(tree.ids) for tree in trees)
    branched = any(tree.branched for tree in trees)
    ids_GT = np.zeros((len(trees), longest), dtype=np.int64)
    visible_GTT = np.zeros((len(trees), longest, longest), dtype=bool) if branched else None
    positions_AGT: torch.Tensor | None = None
    group_R, path_R = [0] * len(rows), [np.empty(0, dtype=np.int64)] * len(rows)
    for g, (tree, group) in enumerate(zip(trees, groups, strict=True)):
        ids_GT[g, : len(tree.ids)] = tree.ids
        if visible_GTT is not None:
            # Padding sees itself: a row without any visible token would be NaN in some kernels.
            np.fill_diagonal(visible_GTT[g], True)
            for ancestors, new in tree.segments:
                visible_GTT[g, new.start : new.stop, ancestors] = True
                visible_GTT[g, new.start : new.stop, new.start : new.stop] |= np.tri(len(new), dtype=bool)
        for i, path in zip(group, tree.paths, strict=True):
            group_R[i], path_R[i] = g, path
            positions_AT = adapter.positions(model, rows[i])
            if positions_AGT is None:
                positions_AGT = torch.zeros((len(positions_AT), len(trees), longest), dtype=torch.long)
            positions_AGT[:, g, torch.from_numpy(path)] = positions_AT
    assert positions_AGT is not None
    visible = torch.from_numpy(visible_GTT) if visible_GTT is not None else None
    return Packed(torch.from_numpy(ids_GT), positions_AGT, visible, group_R, path_R)


@dataclass(frozen=True, slots=True)
class _Tree:
    ids: list[int]
    paths: list[np.ndarray]
    segments: list[tuple[np.ndarray, range]]
    branched: bool


def _tree(sequences: Sequence[list[int]]) -> _Tree:
    """Sequences as one tree: after sorting, the longest shared start is with the one before."""
    ids: list[int] = []
    paths = [np.empty(0, dtype=np.int64)] * len(sequences)
    segments: list[tuple[np.ndarray, range]] = []
    previous: list[int] = []
    previous_path = np.empty(0, dtype=np.int64)
    for i in sorted(range(len(sequences)), key=lambda i: sequences[i]):
        sequence = sequences[i]
        shared = _shared_length(previous, sequence)
        new = range(len(ids), len(ids) + len(sequence) - shared)
        path = np.concatenate([previous_path[:shared], np.arange(new.start, new.stop)])
        ids.extend(sequence[shared:])
        segments.append((path[:shared], new))
        paths[i], previous, previous_path = path, sequence, path
    branched = any(len(path) != len(ids) for path in paths)
    return _Tree(ids, paths, segments, branched)


def _shared_length(a: list[int], b: list[int]) -> int:
    """Length of the longest common start."""
    limit = min(len(a), len(b))
    if a[:limit] == b[:limit]:
        return limit
    return next(i for i in range(limit) if a[i] != b[i])


def attention_mask(decoder: Any, visible: torch.Tensor | None, dtype: torch.dtype) -> torch.Tensor | None:
    """A visibility matrix as the decoder's attention takes it: bool for sdpa, additive for eager."""
    if visible is None or decoder.config._attn_implementation == "sdpa":
        return visible
    return torch.zeros(visible.shape, dtype=dtype, device=visible.device).masked_fill_(
        ~visible, torch.finfo(dtype).min
    )


class SharedForward:
    """Forward passes over many rows in turn: prefixes shared in each, every image encoded once.

    Plan with `parts`, then call with the rows of one part or several. Image features are
    kept from the first call that needs them to the last. `encode` may stand in for the
    adapter's `encode_images` when the caller wants more of the vision pass.
    """

    def __init__(
        self,
        adapter: Adapter,
        model: Any,
        image_token_id: int,
        *,
        reuse_prefix: bool = True,
        encode: Callable[[Sequence[EncodedRow]], list[torch.Tensor]] | None = None,
    ):
        self._adapter, self._model = adapter, model
        self._image_token_id, self._reuse_prefix = image_token_id, reuse_prefix
        self._encode = encode or partial(adapter.encode_images, model)
        self._rows_to_come: Counter[Hashable] = Counter()
        self._unseen: dict[int, dict[Hashable, EncodedRow]] = {}
        self._features: dict[Hashable, torch.Tensor] = {}

    def parts(
        self, rows: Sequence[EncodedRow], most: int, beside: Sequence[EncodedRow] = ()
    ) -> list[list[int]]:
        """Indices of rows to compute together, at most `most` each, parts of like cost adjacent.

        `beside` are rows that come along with these without being planned: further streams.
        """
        for row in (*rows, *beside):
            key = self._adapter.image_key(row)
            self._rows_to_come[key] += 1
            self._unseen.setdefault(id(row.image), {})[key] = row
        parts = []
        for group in group_rows(self._adapter, rows, reuse_prefix=self._reuse_prefix):
            # Neighbours in the sorted order have the most in common, so cut there.
            group.sort(key=lambda i: rows[i].ids)
            parts += [group[i : i + most] for i in range(0, len(group), most)]
        # Packed sequences of one batch are padded to the longest.
        parts.sort(key=lambda part: len(_tree([rows[i].ids for i in part]).ids))
        return parts

    def __call__(self, rows: Sequence[EncodedRow], cache: Any = None) -> tuple[torch.Tensor, Packed]:
        """Last hidden states (G, T, D); keys and values go into `cache` when one is given."""
        packed, inputs = self.prepare(rows)
        return self.run(inputs, cache), packed

    def run(self, inputs: dict[str, Any], cache: Any = None) -> torch.Tensor:
        """What `prepare` made, through the decoder: last hidden states (G, T, D)."""
        decoder = self._adapter.decoder(self._model)
        outputs = decoder(**inputs, past_key_values=cache, use_cache=cache is not None)
        return outputs.last_hidden_state

    def prepare(self, rows: Sequence[EncodedRow]) -> tuple[Packed, dict[str, Any]]:
        """The rows packed, and the decoder's inputs: embeddings with images in place, mask, positions.

        Announces the pass (`passes`): call the decoder with these inputs next.
        """
        groups = group_rows(self._adapter, rows, reuse_prefix=self._reuse_prefix)
        packed = pack(self._adapter, self._model, rows, groups)
        embeds_GTD = self._embed(rows, groups, packed)
        visible = packed.visible_GTT
        if visible is not None:
            visible = visible.unsqueeze(1).to(embeds_GTD.device)
        positions_AGT = packed.positions_AGT.to(embeds_GTD.device)
        decoder = self._adapter.decoder(self._model)
        announce(self._model, partial(prompt_pass, rows, packed, self._image_token_id, embeds_GTD.device))
        return packed, {
            "inputs_embeds": embeds_GTD,
            "attention_mask": attention_mask(decoder, visible, embeds_GTD.dtype),
            "position_ids": positions_AGT[0] if len(positions_AGT) == 1 else positions_AGT,
        }

    def _embed(
        self, rows: Sequence[EncodedRow], groups: Sequence[Sequence[int]], packed: Packed
    ) -> torch.Tensor:
        """Embeddings (G, T, D) with image features in place."""
        adapter = self._adapter
        shown = [rows[group[0]] for group in groups if rows[group[0]].image is not None]
        keys = [adapter.image_key(row) for row in shown]
        # A family may have several keys an image (one a question): all at once, so that it can share.
        new = {k: row for s in shown for k, row in self._unseen.pop(id(s.image), {}).items()}
        if new:
            self._features.update(zip(new, self._encode(list(new.values())), strict=True))
        embeds_GTD = adapter.embed(
            self._model,
            packed.ids_GT.to(self._model.device),
            [self._features[k] for k in keys],
            self._image_token_id,
        )
        self._rows_to_come.subtract(adapter.image_key(row) for row in rows)
        for key in set(keys):
            if self._rows_to_come[key] <= 0:
                del self._features[key]
        return embeds_GTD
