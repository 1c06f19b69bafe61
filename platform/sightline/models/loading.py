"""From a folder or an id to a model and its processor on a device."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sightline.errors import ConfigError, ModelError
from sightline.models.adapters import adapter_for
from sightline.models.reference import packaged_folder


@dataclass(frozen=True, slots=True)
class Parts:
    """What a Vlm is made of. `folder` holds the files its identity is hashed from."""

    model: Any
    processor: Any
    folder: Path
    revision: str


def load_parts(
    source: str, revision: str | None, dtype: str, device: str, attention: str, adapter_path: str | None
) -> Parts:
    """Load weights and processor. See `Vlm.load` for the arguments."""
    import torch
    from transformers import AutoConfig

    if attention not in ("sdpa", "eager"):
        raise ConfigError(
            expected="attention 'sdpa' or 'eager'",
            got=repr(attention),
            hint="these take the 4-D masks we use",
        )
    device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    folder = resolve(source, revision)
    config = AutoConfig.from_pretrained(folder)
    adapter = adapter_for(config.model_type)
    if dtype == "auto":
        weights_dtype: Any = torch.float32 if torch.device(device).type == "cpu" else "auto"
    else:
        weights_dtype = getattr(torch, dtype)
    model = adapter.model_class(config).from_pretrained(
        folder, dtype=weights_dtype, attn_implementation=attention
    )
    if adapter_path is not None:
        model = merge_lora(model, adapter_path)
    processor = adapter.build_processor(str(folder))
    return Parts(model.to(device).eval(), processor, folder, revision or "")


def resolve(source: str, revision: str | None) -> Path:
    """The local folder of a checkpoint; downloads a Hugging Face id if it must."""
    if source == "world":
        return _checked(packaged_folder(), "the package's own reference VLM; run `python jobs/pretrain.py`")
    if Path(source).expanduser().is_dir():
        return _checked(Path(source).expanduser(), "a folder written by `save_pretrained`")
    if source.startswith((".", "/", "~")) or source.count("/") != 1:
        raise ModelError(
            expected="a checkpoint folder, a Hugging Face id (owner/name) or 'world'",
            got=repr(source),
            hint="check the path",
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(source, revision=revision))
    except (HfHubHTTPError, LocalEntryNotFoundError) as error:
        raise ModelError(
            expected=f"the files of {source!r} on the Hugging Face hub or in its cache",
            got=f"{type(error).__name__}",
            hint="check the id, the revision and the network, or name a local folder",
        ) from error


def merge_lora(model: Any, adapter_path: str) -> Any:
    """The model with a LoRA adapter's weights merged in."""
    from peft import PeftModel

    if not (Path(adapter_path) / "adapter_config.json").is_file():
        raise ModelError(expected="a LoRA folder with adapter_config.json", got=repr(adapter_path))
    return PeftModel.from_pretrained(model, adapter_path).merge_and_unload()


def _checked(folder: Path, what: str) -> Path:
    if not (folder / "config.json").is_file():
        raise ModelError(expected=f"config.json in {folder}", got="none", hint=f"this should be {what}")
    return folder
