"""Where models that see through cross-attention have it: a declared table, nothing is searched.

These families are not behind the model door (`vlm`): their prompts hold no image tokens, so
spans, packed prefixes and captures do not apply. What is here serves plain transformers
models, for methods that act on cross-attention heads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from sightline.errors import UnknownFamilyError


@dataclass(frozen=True, slots=True)
class CrossAttention:
    """A model's cross-attention: keys are what its vision tower returns, picture by picture."""

    modules: tuple[Any, ...]
    """Attention modules in the decoder's order; they call transformers' AttentionInterface."""
    leading: int
    """Tokens before a picture's patches (class token); 0 where the tower has patches alone."""
    picture: int | None
    """Keys of one picture, such as a tile; None = all keys are one picture."""

    def patches(self, count: int) -> torch.Tensor:
        """Which of `count` keys are patches of a picture, bool (S,)."""
        return torch.arange(count) % (self.picture or count) >= self.leading


def cross_attention(model: Any) -> CrossAttention:
    """The cross-attention of a plain transformers model. Raises UnknownFamilyError."""
    find = _FAMILIES.get(model.config.model_type)
    if find is None:
        raise _unknown(model.config.model_type)
    return find(model)


def _mllama(model: Any) -> CrossAttention:
    """Llama 3.2 Vision: some decoder blocks have cross-attention instead of self-attention."""
    text = model.model.language_model
    modules = tuple(text.layers[i].cross_attn for i in sorted(text.config.cross_attention_layers))
    return CrossAttention(modules, 1, model.model.vision_model.num_patches)


def _encoder_decoder(model: Any) -> CrossAttention:
    """A vision tower and GPT-2, every block with cross-attention beside self-attention."""
    tower, decoder = model.encoder.config.model_type, model.decoder.config.model_type
    if tower not in _LEADING or decoder != "gpt2":
        raise _unknown(f"vision-encoder-decoder with {tower} and {decoder}")
    modules = tuple(block.crossattention for block in model.decoder.transformer.h)
    return CrossAttention(modules, _LEADING[tower], None)


_LEADING: Mapping[str, int] = {"vit": 1, "deit": 2, "swin": 0}
"""Tokens before the patches in what each tower returns (DeiT's second is for distillation)."""
_FAMILIES: Mapping[str, Callable[[Any], CrossAttention]] = {
    "mllama": _mllama,
    "vision-encoder-decoder": _encoder_decoder,
}


def _unknown(got: str) -> UnknownFamilyError:
    towers = ", ".join(_LEADING)
    return UnknownFamilyError(
        expected=f"a model with known cross-attention: mllama, or vision-encoder-decoder ({towers}; gpt2)",
        got=got,
        hint="add it to sightline/models/cross_attention.py",
    )
