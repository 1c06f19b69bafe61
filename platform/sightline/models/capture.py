"""Activations at chosen places of many prompts, and nothing else kept of their forward passes.

Hooks sit on the decoder blocks that are read and take the asked positions out at once; the
language-model head never runs, the decoder stops after the last block that is read, and
tokens after the last position that is read are not even given to it (a causal decoder's
state at a token depends on the tokens before it alone). Questions about one image share its
vision pass and what their prompts have in common (`prefix`).

Positions come from the encoding's spans, layers follow `activations.sites`: layer i is the
output of block i before any final norm, so transformers' `hidden_states[i + 1]` except for
the last entry, which transformers puts after the norm.

vision_only    Mean over all patches of all tiles of what the vision tower returns: after its
               final norm if the tower norms its patches (SigLIP, InstructBLIP's ViT), before
               any if not (CLIP, Qwen); no class token. Independent of the question.
vision_token   The last image placeholder. With InstructBLIP that is the last of the Q-Former's
               tokens, which has read the question too. With LLaVA-NeXT it is the learned
               newline behind the last row of patches: the same for every image at the layer
               "embedding", not after it.
query_token    The last token of the user's text (a `Reference:` included).
prompt_token   The last token before the answer; with InstructBLIP, which has no generation
               prompt, the same as query_token.
answer_mean    Mean over the answer's tokens, the turn-ending one included (as in `Vlm.score`),
               so that an empty answer has a mean too.

Names: N prompts, R rows of one forward, G, T, D as in `prefix`, K positions kept.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sightline.activations.sites import EMBEDDING, Kind, Site
from sightline.errors import ModelError
from sightline.models.decode import check_length
from sightline.models.encoding import EncodedRow
from sightline.models.prefix import Packed, SharedForward
from sightline.models.prompts import Prompt

if TYPE_CHECKING:
    from sightline.models.adapters.base import Adapter


@dataclass(frozen=True)
class Capture:
    """A model and what to read of it; `__call__` does the work."""

    adapter: Adapter
    model: Any
    sites: tuple[Site, ...]
    image_token_id: int
    batch_size: int
    """Most rows computed together."""
    reuse_prefix: bool = True

    def __call__(self, rows: Sequence[EncodedRow]) -> dict[str, np.ndarray]:
        """Site name -> float32 (len(rows), width), in the rows' order."""
        kinds = {site.kind for site in self.sites if site.layer is not None}
        cut = [_cut(row, kinds) for row in rows]
        check_length(self.adapter, self.model, max(map(len, cut), default=0))
        pooled: dict[int, torch.Tensor] = {}
        wants_vision = any(site.layer is None for site in self.sites)
        forward = SharedForward(
            self.adapter,
            self.model,
            self.image_token_id,
            reuse_prefix=self.reuse_prefix,
            encode=(lambda new: self._encode(new, pooled)) if wants_vision else None,
        )
        found: dict[str, np.ndarray] = {}
        for taken in _batches(forward.parts(cut, self.batch_size), self.batch_size):
            for name, values_RD in self._read([cut[i] for i in taken], forward).items():
                if name not in found:
                    found[name] = np.empty((len(rows), values_RD.shape[1]), dtype=np.float32)
                found[name][taken] = values_RD.numpy()
        if wants_vision:
            means_ND = torch.stack([pooled[id(row.image)] for row in rows])
            found["vision_only"] = means_ND.cpu().numpy()
        return found

    def _encode(self, new: Sequence[EncodedRow], pooled: dict[int, torch.Tensor]) -> list[torch.Tensor]:
        """Image features for the decoder; the mean patch of each image goes into `pooled`."""
        seen = self.adapter.see_images(self.model, new)
        for row, image in zip(new, seen, strict=True):
            pooled[id(row.image)] = image.patches_SW.float().mean(0)
        return [image.features_PD for image in seen]

    def _read(self, rows: Sequence[EncodedRow], forward: SharedForward) -> dict[str, torch.Tensor]:
        """One forward over `rows`: site name -> float32 (R, D) on the CPU."""
        packed, inputs = forward.prepare(rows)
        sites = [site for site in self.sites if site.layer is not None]
        if not sites:
            return {}
        places = {kind: _places(rows, packed, kind) for kind in {site.kind for site in sites}}
        taps = _Taps(sites, {kind: place.flat_K for kind, place in places.items()})
        with taps.attached(self.adapter.text_blocks(self.model)), suppress(_AllRead):
            self.adapter.decoder(self.model)(**inputs, use_cache=False)
        return {site.name: places[site.kind].pool(taps.take(site)).cpu() for site in sites}


def check_sites(sites: Sequence[Site], num_layers: int, prompts: Sequence[Prompt], answers: bool) -> None:
    """Refuse what can never be read, before any work. Raises ModelError."""
    if not sites:
        raise ModelError(expected="at least one site", got="none", hint="see activations.sites.default_sites")
    for site in sites:
        if site.layer is not None and not EMBEDDING <= site.layer < num_layers:
            raise ModelError(
                expected=f"a layer from 0 to {num_layers - 1} or the embedding: this model has "
                f"{num_layers} decoder blocks",
                got=site.name,
            )
        if site.kind == "answer_mean" and not answers:
            raise ModelError(expected=f"answers, one a prompt, for {site.name}", got="none")
        if site.kind in ("vision_only", "vision_token"):
            blind = next((i for i, prompt in enumerate(prompts) if prompt.image is None), None)
            if blind is not None:
                raise ModelError(
                    expected=f"prompts with an image for {site.name}", got=f"prompt {blind} without one"
                )


def image_windows(prompts: Sequence[Prompt], size: int) -> Iterator[list[int]]:
    """Indices of prompts whose pixels are in memory together: about `size`, no image in two windows."""
    by_image: dict[int, list[int]] = {}
    for i, prompt in enumerate(prompts):
        by_image.setdefault(id(prompt.image), []).append(i)
    window: list[int] = []
    for indices in by_image.values():
        if window and len(window) + len(indices) > size:
            yield window
            window = []
        window = window + indices
    if window:
        yield window


def _batches(parts: Sequence[list[int]], batch_size: int) -> Iterator[list[int]]:
    """Neighbouring parts joined as long as they fit."""
    waiting = deque(parts)
    while waiting:
        taken = waiting.popleft()
        while waiting and len(taken) + len(waiting[0]) <= batch_size:
            taken = taken + waiting.popleft()
        yield taken


# -- positions --------------------------------------------------------------------------
def _span(row: EncodedRow, kind: Kind) -> slice:
    """The tokens of one row that a kind reads."""
    spans = row.spans
    if kind == "answer_mean":
        return spans.answer
    last = {
        "vision_token": spans.image[-1].stop if spans.image else 0,
        "query_token": spans.question.stop,
        "prompt_token": spans.answer.start,
    }[kind]
    return slice(last - 1, last)


def _cut(row: EncodedRow, kinds: set[Kind]) -> EncodedRow:
    """The row up to the last token that is read; up to its image at least, which must be whole."""
    stop = max([_span(row, kind).stop for kind in kinds] + [run.stop for run in row.spans.image])
    return replace(row, ids=row.ids[:stop])


@dataclass(frozen=True, slots=True)
class _Places:
    """What one kind reads of packed sequences: flat indices into (G, T), and how many a row."""

    flat_K: torch.Tensor
    counts_R: list[int]

    def pool(self, picked_KD: torch.Tensor) -> torch.Tensor:
        """Each row's mean, float32 (R, D)."""
        if len(picked_KD) == len(self.counts_R):
            return picked_KD.float()
        return torch.stack([part_D.float().mean(0) for part_D in picked_KD.split(self.counts_R)])


def _places(rows: Sequence[EncodedRow], packed: Packed, kind: Kind) -> _Places:
    length = packed.ids_GT.shape[1]
    paths = [path[_span(row, kind)] for row, path in zip(rows, packed.path_R, strict=True)]
    flat = [group * length + path for group, path in zip(packed.group_R, paths, strict=True)]
    return _Places(torch.from_numpy(np.concatenate(flat)), [len(path) for path in paths])


# -- hooks ------------------------------------------------------------------------------
class _AllRead(Exception):  # noqa: N818  (it is no error: it ends a forward early)
    """Raised by the last hook: the blocks after it are not needed."""


class _Taps:
    """Hooks on decoder blocks for the length of one forward; each keeps what `places` asks for."""

    def __init__(self, sites: Sequence[Site], places: Mapping[Kind, torch.Tensor]):
        self._places = places
        self._kinds: dict[int, set[Kind]] = {}
        for site in sites:
            assert site.layer is not None
            self._kinds.setdefault(site.layer, set()).add(site.kind)
        self._last = max(self._kinds)
        self._kept: dict[tuple[int, Kind], torch.Tensor] = {}

    def attached(self, blocks: Sequence[Any]) -> ExitStack:
        """Hooks that are gone when the `with` ends."""
        stack = ExitStack()
        for layer in self._kinds:
            if layer == EMBEDDING:
                # What enters block 0, not what the embedding table gives: some decoders scale it.
                handle = blocks[0].register_forward_pre_hook(
                    lambda module, args: self._keep(EMBEDDING, args[0])
                )
            else:
                handle = blocks[layer].register_forward_hook(
                    lambda module, args, output, layer=layer: self._keep(layer, output)
                )
            stack.callback(handle.remove)
        return stack

    def take(self, site: Site) -> torch.Tensor:
        """(K, D) of one site. Raises ModelError if its hook was never called."""
        assert site.layer is not None
        if (site.layer, site.kind) not in self._kept:
            raise ModelError(
                expected=f"the hook of {site.name} to be called once a forward",
                got="no call",
                hint="a compiled or replaced forward goes past hooks; load the model plainly",
            )
        return self._kept[site.layer, site.kind]

    def _keep(self, layer: int, hidden_GTD: torch.Tensor) -> None:
        for kind in self._kinds[layer]:
            if (layer, kind) in self._kept:
                raise ModelError(expected=f"one call of block {layer} a forward", got="a second one")
            flat_K = self._places[kind].to(hidden_GTD.device)
            self._kept[layer, kind] = hidden_GTD.flatten(0, 1)[flat_K]
        if layer == self._last:
            raise _AllRead
