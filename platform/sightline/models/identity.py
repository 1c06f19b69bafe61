"""A name for exactly this model: a hash of weights, config, processor and chat template."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

_PATTERNS = ("*.safetensors", "*.bin", "*.json", "*.jinja", "*.model", "*.txt")
_BLOB = re.compile(r"[0-9a-f]{64}")
_CHUNK = 1 << 24


def identity_of_files(folder: str | Path, adapter_path: str | Path | None = None) -> str:
    """Hash of the files of a checkpoint folder, and of a LoRA adapter's folder."""
    digest = hashlib.sha256()
    folders = [Path(folder)] + ([Path(adapter_path)] if adapter_path is not None else [])
    for number, each in enumerate(folders):
        for path in sorted({p for pattern in _PATTERNS for p in each.glob(pattern)}):
            digest.update(f"{number} {path.name} {_sha256(path)}\n".encode())
    return digest.hexdigest()[:32]


def identity_of_weights(model: Any, processor: Any) -> str:
    """The same for a model in memory: every weight's bytes, the config, the processor."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    digest.update(model.config.to_json_string(use_diff=False).encode())
    digest.update(processor.to_json_string().encode())
    digest.update(str(processor.chat_template).encode())
    digest.update(processor.tokenizer.backend_tokenizer.to_str().encode())
    return digest.hexdigest()[:32]


def _sha256(path: Path) -> str:
    """A file's sha256. Hugging Face's cache links large files to blobs named by it."""
    target = path.resolve()
    if path.is_symlink() and _BLOB.fullmatch(target.name):
        return target.name
    digest = hashlib.sha256()
    with target.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
