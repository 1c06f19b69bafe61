"""The run: a folder with what was asked (config.json), how (run.json) and what came out.

Files appear whole or not at all (written under another name, then renamed), and JSON
is strict: what is undefined is null, never NaN.
"""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import platform
import shlex
import subprocess
import sys
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from pydantic import BaseModel

from sightline.errors import StorageError

CONFIG, RUN, REPORT, PAGE = "config.json", "run.json", "report.json", "report.html"
_PACKAGES = ("sightline", "torch", "transformers", "ray", "deepspeed", "peft", "numpy", "pillow", "mlflow")


class Files(Protocol):
    """A folder, local or in a bucket (`distributed.storage.Storage` is one too)."""

    def write_bytes(self, name: str, data: bytes) -> None: ...

    def read_json(self, name: str) -> Any: ...

    def exists(self, name: str) -> bool: ...


@dataclass(frozen=True, slots=True)
class RunFolder:
    """A local run folder. Make it with `RunFolder.at`."""

    path: Path

    @classmethod
    def at(cls, path: str | os.PathLike[str]) -> RunFolder:
        """The folder, created if need be. Raises StorageError, before any work, if it cannot be written."""
        if "://" in os.fspath(path):
            raise StorageError(
                expected="a local folder", got=os.fspath(path), hint="mount the bucket, or use Storage.at"
            )
        folder = cls(Path(path).expanduser().absolute())
        try:
            folder.path.mkdir(parents=True, exist_ok=True)
            folder.write_bytes(".writable", b"")
            (folder.path / ".writable").unlink()
        except OSError as error:
            raise StorageError(
                expected=f"a folder that can be written at {folder.path}",
                got=str(error),
                hint="choose another run.root, or free the space or the permission",
            ) from error
        return folder

    def write_bytes(self, name: str, data: bytes) -> None:
        """Write one whole file, folders above it included; a reader never sees half of it."""
        target = self.path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
        try:
            partial.write_bytes(data)
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)

    def read_json(self, name: str) -> Any:
        """A JSON file's content. Raises StorageError when it is missing or broken."""
        try:
            return json.loads((self.path / name).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise StorageError(expected=f"JSON in {self.path / name}", got=str(error)) from error

    def exists(self, name: str) -> bool:
        return (self.path / name).is_file()


def start_run(
    files: Files, *, name: str, config: BaseModel | Mapping[str, Any], seed: int, job_id: str = ""
) -> dict[str, Any]:
    """Write config.json (resolved) and run.json; returns the manifest that run.json holds.

    A run that is started again keeps its first `started` and counts in `starts`.
    """
    earlier = files.read_json(RUN) if files.exists(RUN) else {}
    manifest = {
        "name": name,
        "started": earlier.get("started") or datetime.now(UTC).isoformat(timespec="seconds"),
        "starts": earlier.get("starts", 0) + 1,
        "command": shlex.join([os.path.basename(sys.executable), *sys.argv]),
        "seed": seed,
        "job_id": job_id,
        "commit": _commit(),
        "versions": _versions(),
        "hardware": _hardware(),
    }
    write_json(files, CONFIG, config.model_dump(mode="json") if isinstance(config, BaseModel) else config)
    write_json(files, RUN, manifest)
    return manifest


def write_json(files: Files, name: str, value: Any) -> None:
    """One whole file of strict JSON: nan and infinity become null, keys keep their order."""
    text = json.dumps(plain(value), indent=1, ensure_ascii=False, allow_nan=False)
    files.write_bytes(name, (text + "\n").encode())


def plain(value: Any) -> Any:
    """`value` as strict JSON knows it: numpy numbers as numbers, tuples as lists, nan as None."""
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else None
        case Mapping():
            return {str(k): plain(v) for k, v in value.items()}
        case list() | tuple() | set() | frozenset():
            return [plain(v) for v in value]
        case BaseModel():
            return value.model_dump(mode="json")
        case Path():
            return str(value)
        case _ if callable(getattr(value, "tolist", None)):  # numpy arrays and scalars
            return plain(value.tolist())
        case _:
            raise StorageError(expected="a value JSON can hold", got=type(value).__name__)


def _commit() -> str:
    """The commit this code runs from, with `+changes` if the tree differs from it; "" when unknown."""
    here = Path(__file__).parent
    try:
        commit, changes = (
            subprocess.run(
                ["git", "-C", str(here), *arguments], capture_output=True, text=True, timeout=10, check=True
            ).stdout.strip()
            for arguments in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return commit + ("+changes" if changes else "")


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "absent"
    return found


def _hardware() -> dict[str, Any]:
    import torch

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "machine": platform.machine(),
        "system": platform.platform(),
        "cpu": _cpu_name(),
        "logical_cpus": os.cpu_count(),
        "memory_gib": round(memory, 1),
        "gpus": gpus,
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())
