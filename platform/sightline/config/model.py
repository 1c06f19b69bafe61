"""Which model, and how to hold it in memory."""

from __future__ import annotations

from typing import Literal

from sightline.config.base import Frozen, Location, ModelSource


class ModelConfig(Frozen):
    """A vision-language model."""

    source: ModelSource = "world"
    """`world` (the reference VLM that ships with the package), a folder, or a hub name."""
    revision: str | None = None
    """Commit or tag on the hub; null = the newest. Name one whenever numbers must repeat."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """`auto` = the checkpoint's own on a GPU, float32 on a CPU."""
    device: str = "auto"
    """`auto` = the GPU Ray assigned, else the CPU; or a torch device such as `cuda:1`."""
    attention: Literal["eager", "sdpa"] = "sdpa"
    """The attention kernel of transformers; both take the block masks of shared prefixes."""
    adapter: Location | None = None
    """Folder of a trained LoRA adapter to put on top; null = none."""
