"""The decoder's hidden states at the last token of prompt + caption, at every block.

What VTI's textual direction is made of. The caption's last token is the one before the turn's
end, so a caption with a full stop is read at its full stop. Layer i is the output of block i.

Names: N captions, R rows of one forward, L decoder blocks, D width; G, T as in `prefix`.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

import torch

from sightline.errors import ModelError, SpanError
from sightline.models.decode import check_length
from sightline.models.encoding import EncodedRow
from sightline.models.prefix import SharedForward
from sightline.models.prompts import Prompt

if TYPE_CHECKING:
    from sightline.models.vlm import Vlm


def caption_states(
    vlm: Vlm,
    prompts: Sequence[Prompt],
    captions: Sequence[str],
    *,
    batch_size: int = 16,
    released: bool = False,
) -> torch.Tensor:
    """(N, L, D) float32 on the CPU, in the order of `prompts`.

    With `released`, transformers' `hidden_states`, as VTI's code takes them: the embedding stands
    in front (L + 1 layers) and the last entry is behind the final norm. Prompts that hold the same
    image object share it. Raises SpanError for an empty caption.
    """
    if blank := [i for i, caption in enumerate(captions) if not caption.strip()]:
        raise SpanError(expected="captions of at least one word", got=f"nothing in caption {blank[0]}")
    rows = vlm.encode(prompts, captions)
    check_length(vlm.adapter, vlm.model, max(map(len, rows), default=0))
    places = [_last(vlm, row) for row in rows]
    forward = SharedForward(vlm.adapter, vlm.model, vlm.image_token_id)
    states: list[torch.Tensor] = [torch.empty(0)] * len(rows)
    with vlm.inference():
        for taken in forward.parts(rows, batch_size):
            read_RLD = _read(vlm, forward, [rows[i] for i in taken], [places[i] for i in taken], released)
            for i, one_LD in zip(taken, read_RLD.cpu(), strict=True):
                states[i] = one_LD
    return torch.stack(states)


def _last(vlm: Vlm, row: EncodedRow) -> int:
    """The caption's last token: what the answer span holds before the turn's end."""
    end = vlm.adapter.frame(vlm.processor, row.image is not None).end
    return row.spans.answer.stop - len(vlm.tokenizer(end, add_special_tokens=False)["input_ids"]) - 1


def _read(
    vlm: Vlm, forward: SharedForward, rows: Sequence[EncodedRow], places: Sequence[int], released: bool
) -> torch.Tensor:
    """One forward: (R, L, D) float32."""
    packed, inputs = forward.prepare(rows)
    length = packed.ids_GT.shape[1]
    flat_R = torch.tensor(
        [
            g * length + path[place]
            for g, path, place in zip(packed.group_R, packed.path_R, places, strict=True)
        ],
        device=vlm.device,
    )
    blocks = vlm.adapter.text_blocks(vlm.model)
    kept: dict[int, torch.Tensor] = {}

    def keep(layer: int, hidden_GTD: torch.Tensor) -> None:
        kept[layer] = hidden_GTD.flatten(0, 1)[flat_R.to(hidden_GTD.device)]

    with ExitStack() as stack:
        for layer, block in enumerate(blocks):
            handle = block.register_forward_hook(
                lambda module, args, output, layer=layer: keep(layer, output)
            )
            stack.callback(handle.remove)
        enter = blocks[0].register_forward_pre_hook(lambda module, args: keep(-1, args[0]))
        stack.callback(enter.remove)
        vlm.adapter.decoder(vlm.model)(**inputs, use_cache=False)
    if len(kept) != len(blocks) + 1:
        raise ModelError(
            expected=f"the hooks of all {len(blocks)} decoder blocks to be called",
            got=f"{len(kept) - 1}",
            hint="a compiled or replaced forward goes past hooks; load the model plainly",
        )
    if released:
        kept[len(blocks) - 1] = vlm.adapter.final_norm(vlm.model)(kept[len(blocks) - 1])
    first = -1 if released else 0
    return torch.stack([kept[layer].float() for layer in range(first, len(blocks))], dim=1)
