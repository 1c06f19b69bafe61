"""The families we know: `config.model_type` -> Adapter. To add one, add a file and a line here."""

from __future__ import annotations

from sightline.errors import UnknownFamilyError
from sightline.models.adapters.base import Adapter
from sightline.models.adapters.instructblip import InstructBlipAdapter
from sightline.models.adapters.llava import LlavaAdapter, LlavaNextAdapter
from sightline.models.adapters.qwen_vl import Qwen2VlAdapter, Qwen25VlAdapter
from sightline.models.adapters.smolvlm import Idefics3Adapter, SmolVlmAdapter

_ADAPTERS: tuple[Adapter, ...] = (
    SmolVlmAdapter(),
    Idefics3Adapter(),
    LlavaAdapter(),
    LlavaNextAdapter(),
    Qwen2VlAdapter(),
    Qwen25VlAdapter(),
    InstructBlipAdapter(),
)

FAMILIES: dict[str, Adapter] = {name: adapter for adapter in _ADAPTERS for name in adapter.model_types}
"""`config.model_type` -> its adapter."""


def adapter_for(model_type: str) -> Adapter:
    """The adapter of one `config.model_type`; UnknownFamilyError lists the known ones."""
    if model_type not in FAMILIES:
        raise UnknownFamilyError(
            expected=f"a model family among {', '.join(sorted(FAMILIES))}",
            got=repr(model_type),
            hint="add an adapter in sightline/models/adapters",
        )
    return FAMILIES[model_type]


__all__ = ["FAMILIES", "Adapter", "adapter_for"]
