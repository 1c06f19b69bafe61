"""From a folder or an id to a model and its processor on a device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sightline.errors import ConfigError, ModelError
from sightline.models.adapters import adapter_for
from sightline.models.reference import packaged_folder

_FILES = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.txt")
"""What is fetched of a hub repository: no pickles, no ONNX copies."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What a Vlm is made of. `folder` holds the files its identity is hashed from."""

    model: Any
    processor: Any
    folder: Path
    revision: str
    """The commit on the hub; "" for a local folder."""


def load_parts(
    source: str, revision: str | None, dtype: str, device: str, attention: str, adapter_path: str | None
) -> Parts:
    """Load weights and processor. See `Vlm.load` for the arguments."""
    import torch
    from safetensors import SafetensorError
    from transformers import AutoConfig

    if attention not in ("sdpa", "eager"):
        raise ConfigError(
            expected="attention 'sdpa' or 'eager'",
            got=repr(attention),
            hint="these take the 4-D masks we use",
        )
    device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    folder, commit = resolve(source, revision)
    weights_dtype: Any = dtype if dtype != "auto" or torch.device(device).type != "cpu" else "float32"
    try:
        with quiet():
            config = AutoConfig.from_pretrained(folder)
            adapter = adapter_for(config.model_type)
            model = load_weights(adapter.model_class(config), folder, weights_dtype, attention)
            processor = adapter.build_processor(str(folder))
    except (OSError, SafetensorError) as error:
        raise ModelError(
            expected=f"whole weights (safetensors) and processor files in {folder}",
            got=f"{type(error).__name__}: {str(error).splitlines()[0]}",
            hint="fetch or write the checkpoint again",
        ) from error
    if adapter_path is not None:
        model = merge_lora(model, adapter_path)
    return Parts(model.to(device).eval(), processor, folder, commit)


@contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' bars and warnings while files are read and written.

    Every worker would draw a bar, and warn of SmolVLM's default pad token, which no model
    of ours uses. What matters (missing weights) is checked and raised by `load_weights`.
    """
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def load_weights(model_class: Any, folder: Path, dtype: str, attention: str) -> Any:
    """The model with every weight from the folder; a weight that is not there is an error.

    transformers would leave it at random and only log a warning.
    """
    model, found = model_class.from_pretrained(
        folder, dtype=dtype, attn_implementation=attention, output_loading_info=True
    )
    if found["missing_keys"]:
        missing = sorted(found["missing_keys"])
        raise ModelError(
            expected=f"all weights of {model_class.__name__} in {folder}",
            got=f"none for {', '.join(missing[:3])} ({len(missing)} in all)",
            hint="the checkpoint is incomplete, or of another architecture than its config says",
        )
    return model


def resolve(source: str, revision: str | None) -> tuple[Path, str]:
    """A checkpoint's local folder and its commit ("" for a folder); downloads a hub id if it must."""
    if source == "world":
        what = "the package's own reference VLM; run `python jobs/pretrain.py`"
        return _checked(packaged_folder(), what), ""
    if Path(source).expanduser().is_dir():
        return _checked(Path(source).expanduser(), "a folder written by `save_pretrained`"), ""
    if source.startswith((".", "/", "~")) or source.count("/") != 1:
        raise ModelError(
            expected="a checkpoint folder, a Hugging Face id (owner/name) or 'world'",
            got=repr(source),
            hint="check the path",
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(source, revision=revision, allow_patterns=list(_FILES)))
    except (HfHubHTTPError, LocalEntryNotFoundError) as error:
        raise ModelError(
            expected=f"the files of {source!r} on the Hugging Face hub or in its cache",
            got=f"{type(error).__name__}",
            hint="check the id, the revision and the network, or name a local folder",
        ) from error
    return folder, folder.name  # the cache names a snapshot's folder by its commit


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
