"""A model's shapes without its weights: built on the meta device, counted, never loaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sightline.errors import ModelError
from sightline.models.adapters import Adapter, adapter_for
from sightline.models.known import KNOWN
from sightline.models.reference import packaged_folder


@dataclass(frozen=True, slots=True)
class Size:
    """What a model's shapes say about its cost. Counts are parameters; widths are features."""

    parameters: int
    vision_parameters: int
    """Of the vision blocks alone."""
    text_parameters: int
    """Of the decoder (embeddings, blocks, norm) and the language-model head."""
    vision_blocks: int
    text_blocks: int
    vision_width: int
    text_width: int
    vocabulary: int
    key_value_width: int
    """Key features of one token in one block (the values have as many)."""

    def weight_bytes(self, bytes_each: int = 2) -> int:
        """Memory of the weights; 2 bytes each in bf16."""
        return self.parameters * bytes_each

    def key_value_bytes(self, rows: int, tokens: int, bytes_each: int = 2) -> int:
        """Memory of the keys and values of `rows` sequences of `tokens` tokens."""
        return rows * tokens * self.text_blocks * 2 * self.key_value_width * bytes_each


def architecture(source: str, *, revision: str | None = None) -> Any:
    """The transformers config of a model: a folder, "world", a known id, or one on the hub.

    The three checkpoints in `known.KNOWN` need no network. Raises ModelError when there is
    no config to be had.
    """
    from transformers import AutoConfig

    folder = packaged_folder() if source == "world" else Path(source).expanduser()
    if folder.is_dir():
        return AutoConfig.from_pretrained(folder)
    if source in KNOWN and revision is None:
        return KNOWN[source]()
    try:
        return AutoConfig.from_pretrained(source, revision=revision)
    except (OSError, ValueError) as error:
        raise ModelError(
            expected=f"the config of {source!r} in a folder or on the Hugging Face hub",
            got=type(error).__name__,
            hint=f"without a network these are known: {', '.join(KNOWN)}",
        ) from error


def build_on_meta(config: Any) -> Any:
    """The model of a config with every weight on the meta device: shapes, and no memory."""
    import torch

    model_class = adapter_for(config.model_type).model_class(config)
    with torch.device("meta"):
        return model_class(config)


def measure(model: Any) -> Size:
    """Count a model's parts; works on the meta device as on any other."""
    adapter: Adapter = adapter_for(model.config.model_type)
    decoder, head = adapter.decoder(model), adapter.lm_head(model)
    vision, text = adapter.vision_blocks(model), adapter.text_blocks(model)
    embeddings: Any = adapter.embeddings(model)
    # A tied head is the embeddings themselves: parameters are counted once, by identity.
    text_parameters = {id(p): p.numel() for part in (decoder, head) for p in part.parameters()}
    return Size(
        parameters=sum(p.numel() for p in model.parameters()),
        vision_parameters=sum(p.numel() for p in vision.parameters()),
        text_parameters=sum(text_parameters.values()),
        vision_blocks=len(vision),
        text_blocks=len(text),
        vision_width=adapter.vision_width(model),
        text_width=embeddings.weight.shape[1],
        vocabulary=embeddings.weight.shape[0],
        key_value_width=text[0].self_attn.k_proj.weight.shape[0],
    )
