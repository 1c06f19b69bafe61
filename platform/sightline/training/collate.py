"""From preference pairs to a batch: images loaded, texts encoded, answers packed.

Runs in the worker that trains, on its own images; nothing larger than a text ever travels. An
image that cannot be read is an error here: a pair file is checked when it is made.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from sightline.data.images import load_image
from sightline.models.decode import check_length
from sightline.models.encoding import EncodedRow
from sightline.models.prompts import Prompt
from sightline.records import PreferencePair
from sightline.training import branches
from sightline.training.losses import PairLogprobs

if TYPE_CHECKING:
    from PIL import Image

    from sightline.models.vlm import Vlm


@dataclass(frozen=True, slots=True)
class PairBatch:
    """N pairs, ready for `PairForward`; `packed` for the shared forward, `inputs` for the plain."""

    packed: branches.PackedBatch | None
    position_XBT: torch.Tensor | None
    """Position ids of families with several axes (X of them); None = those of `packed`."""
    inputs: dict[str, torch.Tensor]
    image_rows: list[EncodedRow]
    """One row for each distinct image (shared forward)."""
    image_of_sequence: list[int]
    """Which of them each packed sequence shows."""
    answer_tokens_S: torch.Tensor
    """Answer lengths (2N,), all chosen before all rejected."""
    reference: PairLogprobs
    weight_N: torch.Tensor

    def policy(self, logprob_2N: torch.Tensor) -> PairLogprobs:
        """The forward's output with the answers' lengths beside it."""
        return replace(self.reference, chosen_N=logprob_2N[0], rejected_N=logprob_2N[1])

    def to(self, device: torch.device) -> PairBatch:
        return replace(
            self,
            packed=None if self.packed is None else self.packed.to(device),
            position_XBT=None if self.position_XBT is None else self.position_XBT.to(device),
            inputs={name: tensor.to(device) for name, tensor in self.inputs.items()},
            answer_tokens_S=self.answer_tokens_S.to(device),
            reference=PairLogprobs(*(t.to(device) for t in self.reference.tensors())),
            weight_N=self.weight_N.to(device),
        )


class PairCollator:
    """Makes a PairBatch of some pairs and their reference log-probabilities."""

    def __init__(self, vlm: Vlm, mode: Literal["shared", "plain"], *, cached_images: int = 256):
        self._vlm, self._mode = vlm, mode
        self._images: OrderedDict[str, Image.Image] = OrderedDict()
        self._cached_images = cached_images

    def __call__(
        self, pairs: Sequence[PreferencePair], reference: Mapping[str, np.ndarray] | None = None
    ) -> PairBatch:
        """`reference` holds `chosen` and `rejected`, each (N,); None = zeros.

        Raises ModelError for a pair longer than the model's positions.
        """
        prompts = [Prompt(self.image(pair.image_uri), pair.question, pair.context) for pair in pairs]
        answers = [pair.chosen for pair in pairs] + [pair.rejected for pair in pairs]
        rows = self._vlm.encode([*prompts, *prompts], answers)
        check_length(self._vlm.adapter, self._vlm.model, max(map(len, rows)))
        lengths_S = torch.tensor([len(row.answer_ids) for row in rows])
        chosen_tokens_N, rejected_tokens_N = lengths_S.chunk(2)
        size = len(pairs)
        zeros = {"chosen": np.zeros(size), "rejected": np.zeros(size)}
        sides = {
            side: torch.as_tensor(np.asarray(values), dtype=torch.float32)
            for side, values in (reference or zeros).items()
        }
        shared = self._pack(rows[:size], rows[size:]) if self._mode == "shared" else {}
        return PairBatch(
            packed=shared.get("packed"),
            position_XBT=shared.get("position_XBT"),
            inputs={} if shared else self._vlm.collate(rows, padding_side="left"),
            image_rows=shared.get("image_rows", []),
            image_of_sequence=shared.get("image_of_sequence", []),
            answer_tokens_S=lengths_S,
            reference=PairLogprobs(sides["chosen"], sides["rejected"], chosen_tokens_N, rejected_tokens_N),
            weight_N=torch.tensor([pair.weight for pair in pairs], dtype=torch.float32),
        )

    def _pack(self, chosen: Sequence[EncodedRow], rejected: Sequence[EncodedRow]) -> dict[str, Any]:
        packed = [
            branches.pack(good.prompt_ids, [good.answer_ids, bad.answer_ids])
            for good, bad in zip(chosen, rejected, strict=True)
        ]
        distinct: dict[object, EncodedRow] = {}
        with_image = [row for row in chosen if row.image is not None]
        for row in with_image:
            distinct.setdefault(self._vlm.adapter.image_key(row), row)
        place = {key: i for i, key in enumerate(distinct)}
        return {
            "packed": branches.collate(packed, pad_id=self._vlm.tokenizer.pad_token_id),
            "position_XBT": self._positions(chosen, rejected, max(map(len, packed))),
            "image_rows": list(distinct.values()),
            "image_of_sequence": [place[self._vlm.adapter.image_key(row)] for row in with_image],
        }

    def _positions(
        self, chosen: Sequence[EncodedRow], rejected: Sequence[EncodedRow], width: int
    ) -> torch.Tensor | None:
        """For rotary positions of several axes: each answer's own, as if it stood alone."""
        adapter, model = self._vlm.adapter, self._vlm.model
        if adapter.position_axes == 1:
            return None
        position_XBT = torch.zeros(adapter.position_axes, len(chosen), width, dtype=torch.long)
        for i, (good, bad) in enumerate(zip(chosen, rejected, strict=True)):
            answer = adapter.positions(model, bad)[:, bad.spans.answer]
            row_XT = torch.cat([adapter.positions(model, good), answer], dim=1)
            position_XBT[:, i, : row_XT.shape[1]] = row_XT
        return position_XBT

    def image(self, uri: str) -> Image.Image | None:
        """The image of a pair, the same object every time while it is in the small cache."""
        if not uri:
            return None
        if uri not in self._images:
            self._images[uri] = load_image(uri)
            while len(self._images) > self._cached_images:
                self._images.popitem(last=False)
        self._images.move_to_end(uri)
        return self._images[uri]
