"""What the tests of interventions share: directions, transformers' own generate, a count of hooks."""

from __future__ import annotations

from typing import Any

import torch

from sightline.interventions.directions import Directions
from sightline.models.prompts import Prompt
from sightline.models.vlm import Vlm


def directions(vlm: Vlm) -> Directions:
    """Random ones, a direction for each token of a picture where the tower has a fixed number."""
    draw = torch.Generator().manual_seed(2)
    tokens = vlm.adapter.vision_tokens(vlm.model) or 1
    blocks, width = len(vlm.adapter.vision_blocks(vlm.model)), vlm.adapter.vision_width(vlm.model)
    return Directions.of(
        vlm,
        text_LD=torch.randn(vlm.num_layers, vlm.adapter.text_width(vlm.model), generator=draw),
        visual_LPD=torch.randn(blocks, tokens, width, generator=draw),
    )


def stock(vlm: Vlm, prompts: list[Prompt], **settings: Any) -> torch.Tensor:
    """`model.generate` itself on left-padded prompts, greedy or with beams."""
    batch = vlm.collate(vlm.encode(prompts), "left")
    batch.pop("position_ids", None)
    with torch.inference_mode():
        return vlm.model.generate(**batch, do_sample=False, **settings)


def our_hooks(vlm: Vlm) -> int:
    """Hooks of Sightline's on the model; transformers keeps recorders of its own on some, once used."""
    hooks = [
        hook
        for module in vlm.model.modules()
        for kind in (module._forward_hooks, module._forward_pre_hooks)
        for hook in kind.values()
    ]
    return sum(hook.__module__.startswith("sightline") for hook in hooks)
