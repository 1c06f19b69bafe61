"""What this machine and its cluster can do, and what stands in the way. One `Check` a line.

Each check looks at one thing, changes nothing that stays (a private Ray is stopped again, a
probe file removed) and says what to do. It knows the configuration of `jobs/dpo.py` only as
far as places and resources go.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
import shutil
import socket
import sqlite3
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from packaging.requirements import Requirement

from sightline.config.dpo import DpoConfig
from sightline.config.resources import ResourcesConfig
from sightline.errors import ResourceError, StorageError

GIB = 2**30
MIN_SHM_GIB = 1.0
MIN_DISK_GIB = 5.0
REACH_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class Check:
    """One finding. `advice` is empty when there is nothing to do."""

    name: str
    status: Literal["ok", "warn", "fail"]
    value: str
    advice: str = ""

    def line(self, width: int = 12) -> str:
        """`ok    torch        2.13.0`, with `-> advice` at the end where there is some."""
        return f"{self.status:<5} {self.name:<{width}} {self.value}" + (
            f"  -> {self.advice}" if self.advice else ""
        )


def examine(config: DpoConfig) -> Iterator[Check]:
    """Every check, cheap ones first; Ray last because it takes seconds."""
    local: tuple[Callable[[], Check], ...] = (python, packages, torchvision, devices, cpus, shared_memory)
    for check in local:
        yield check()
    yield storage(config.run.root)
    yield disk(config.run.root)
    yield tracking(config.run.tracking_uri)
    yield model(config.model.source)
    yield from cluster(config.resources)


def python() -> Check:
    version = platform.python_version()
    if tuple(map(int, version.split(".")[:2])) < (3, 11):
        return Check("python", "fail", version, "install Python 3.11 or newer and run `make setup`")
    return Check("python", "ok", f"{version} on {platform.system()} {platform.machine()}")


def packages() -> Check:
    """Installed versions against what pyproject.toml asks for."""
    shown, wrong = [], []
    for text in importlib.metadata.requires("sightline") or []:
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        version = _version(requirement.name)
        if version is None or not requirement.specifier.contains(version, prereleases=True):
            wrong.append(f"{requirement.name} {version or 'missing'} (wanted {requirement.specifier})")
        if requirement.name in {"torch", "transformers", "ray", "deepspeed", "mlflow"}:
            shown.append(f"{requirement.name} {version}")
    if wrong:
        return Check("packages", "fail", ", ".join(wrong), "run `make setup`")
    return Check("packages", "ok", ", ".join(shown))


def torchvision() -> Check:
    """Importable, with `sightline.torchvision_cpu`'s repair where torch has no CUDA."""
    try:
        module = importlib.import_module("torchvision")
    except (ImportError, RuntimeError) as error:
        return Check("torchvision", "fail", str(error), "install the version that belongs to this torch")
    return Check("torchvision", "ok", module.__version__)


def devices() -> Check:
    """GPUs with memory and bf16, or what the CPU does with bf16."""
    import torch

    if torch.cuda.is_available():
        found = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
        names = ", ".join(f"{gpu.name} {gpu.total_memory / GIB:.0f} GiB" for gpu in found)
        if torch.cuda.is_bf16_supported():
            return Check("devices", "ok", f"{len(found)} GPU: {names}; bf16")
        return Check("devices", "warn", f"{len(found)} GPU: {names}; no bf16", "set model.dtype=float16")
    abilities = torch.cpu.get_capabilities()
    fast = [name for name in ("amx_bf16", "avx512_bf16") if abilities.get(name)]
    if torch.version.cuda is not None:
        return Check(
            "devices", "warn", "torch with CUDA, but no GPU seen", "check nvidia-smi and CUDA_VISIBLE_DEVICES"
        )
    if fast:
        return Check("devices", "ok", f"CPU; bf16 by {', '.join(fast)}")
    return Check("devices", "warn", "CPU; bf16 emulated", "keep model.dtype=float32 here")


def cpus() -> Check:
    """Logical CPUs this process may use; Ray counts the machine's, a container may grant fewer."""
    machine, granted = os.cpu_count() or 1, len(os.sched_getaffinity(0))
    quota = _cpu_quota()
    if quota is not None:
        granted = min(granted, max(1, int(quota)))
    if granted < machine:
        return Check("cpus", "warn", f"{granted} of {machine}", f"start Ray with --num-cpus={granted}")
    return Check("cpus", "ok", f"{granted} logical")


def shared_memory(path: str = "/dev/shm") -> Check:
    """Ray keeps its object store there; on a small one it falls back to the disk and crawls."""
    if not os.path.isdir(path):
        return Check(path, "warn", "missing", "Ray will use /tmp: slower, but it works")
    free = shutil.disk_usage(path).free / GIB
    if free < MIN_SHM_GIB:
        advice = "docker: --shm-size=8g; Kubernetes: an emptyDir with medium Memory"
        return Check(path, "warn", f"{free:.1f} GiB free", advice)
    return Check(path, "ok", f"{free:.1f} GiB free")


def storage(root: str) -> Check:
    """`run.root` can be written, and will still be there afterwards."""
    from sightline.distributed.storage import Storage

    try:
        place = Storage.at(root)
        place.clear_temporary()
    except StorageError as error:
        return Check("run.root", "fail", str(error.__cause__), "set run.root to a place you may write")
    if "/runtime_resources/" in place.uri:
        return Check(
            "run.root", "warn", f"{place.uri} lies in Ray's package cache", "set run.root to a lasting place"
        )
    return Check("run.root", "ok", place.uri)


def disk(root: str) -> Check:
    if "://" in root:
        return Check("disk", "ok", "not on this machine")
    free = shutil.disk_usage(_existing(root)).free / GIB
    if free < MIN_DISK_GIB:
        return Check(
            "disk", "warn", f"{free:.1f} GiB free", "checkpoints need room; set run.root to another disk"
        )
    return Check("disk", "ok", f"{free:.1f} GiB free")


def tracking(uri: str) -> Check:
    """The MLflow store: an sqlite file that can be written, or a server that answers."""
    name = "tracking"
    if uri.startswith("sqlite:///"):
        return _sqlite(uri, uri.removeprefix("sqlite:///"))
    if not uri.startswith(("http://", "https://")):
        return Check(name, "warn", f"{uri} (not tried)", "sqlite files and http servers are checked here")
    try:
        with urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=REACH_TIMEOUT_S) as answer:
            return Check(name, "ok", f"{uri} answers {answer.status}")
    except urllib.error.HTTPError as error:
        return Check(name, "warn", f"{uri} answers {error.code}", "check the credentials (MLFLOW_TRACKING_*)")
    except OSError as error:
        return Check(name, "fail", f"{uri}: {error}", "start the server or set run.tracking_uri")


def _sqlite(uri: str, path: str) -> Check:
    try:
        if os.path.exists(path):
            with closing(sqlite3.connect(path, timeout=REACH_TIMEOUT_S)) as store:
                store.execute("BEGIN IMMEDIATE")  # takes the lock to write, and gives it back
        else:
            tempfile.TemporaryFile(dir=_existing(path)).close()
    except (OSError, sqlite3.Error) as error:
        return Check("tracking", "fail", f"{uri}: {error}", "set run.tracking_uri to another file")
    return Check("tracking", "ok", uri)


def model(source: str) -> Check:
    """The weights are here, or can be fetched."""
    if source == "world":
        folder = Path(__file__).parents[1] / "world" / "reference"
        if (folder / "config.json").exists():
            return Check("model", "ok", "the reference VLM (packaged)")
        return Check(
            "model", "fail", f"nothing in {folder}", "install sightline again, or run jobs/pretrain.py"
        )
    if os.path.isabs(source):
        if (Path(source) / "config.json").exists():
            return Check("model", "ok", source)
        return Check("model", "fail", f"no config.json in {source}", "set model.source to a saved model")
    from huggingface_hub import constants, try_to_load_from_cache

    if isinstance(try_to_load_from_cache(source, "config.json"), str):
        return Check("model", "ok", f"{source} (in the local cache)")
    if constants.HF_HUB_OFFLINE:
        return Check(
            "model", "fail", f"{source} is not in the cache, HF_HUB_OFFLINE=1", "download it or unset it"
        )
    return Check("model", "ok", f"{source} (fetched on first use)")


def cluster(resources: ResourcesConfig) -> Iterator[Check]:
    """Reach the cluster (or start a private one and stop it), then ask whether the workers fit."""
    from sightline.distributed import session

    address = resources.address or os.environ.get("RAY_ADDRESS") or None
    if address is not None and address.startswith("http"):
        advice = "`ray job submit` wants it; here name the cluster itself, such as host:6379"
        yield Check("ray", "fail", f"{address} is a job server", advice)
        return
    if address is not None and (problem := _unreachable(address)):
        yield Check("ray", "fail", problem, "start it (`ray start --head`) or unset RAY_ADDRESS")
        return
    try:
        reached = session.connect(address=address, cpus_per_worker=0)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        yield Check("ray", "fail", f"{type(error).__name__}: {error}", "see /tmp/ray/session_latest/logs")
        return
    try:
        kind = "a private cluster starts and stops" if reached.local else f"cluster at {reached.address}"
        yield Check("ray", "ok", f"{kind}; {reached.cpus:g} CPUs, {reached.gpus:g} GPUs")
        yield schedulable(reached, resources)
    finally:
        session.disconnect()


def schedulable(reached: Any, resources: ResourcesConfig) -> Check:
    """Whether the requested workers can ever run, and whether one fits a single machine."""
    import ray

    from sightline.distributed import session

    size = {"CPU": resources.cpus_per_worker, "GPU": resources.gpus_per_worker}
    asked = f"{resources.workers} x ({size['CPU']:g} CPUs, {size['GPU']:g} GPUs)"
    try:
        session.require(
            reached,
            workers=resources.workers,
            cpus_per_worker=resources.cpus_per_worker,
            gpus_per_worker=resources.gpus_per_worker,
        )
    except ResourceError as error:
        return Check("resources", "fail", asked, str(error))
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    room = [min(int(node.get(key, 0) // need) for key, need in size.items() if need) for node in nodes]
    if sum(room) < resources.workers:
        advice = "lower resources.cpus_per_worker or resources.gpus_per_worker, unless the cluster grows"
        return Check("resources", "warn", f"{asked}: {sum(room)} fit on the machines present", advice)
    return Check("resources", "ok", f"{asked} fit")


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu_quota(path: str = "/sys/fs/cgroup/cpu.max") -> float | None:
    """CPUs that the container's cgroup grants; None = no limit."""
    try:
        quota, period = Path(path).read_text().split()
    except (OSError, ValueError):
        return None
    return None if quota == "max" else int(quota) / int(period)


def _existing(path: str) -> str:
    """The nearest folder above that exists."""
    place = Path(path)
    while not place.is_dir():
        place = place.parent
    return str(place)


def _unreachable(address: str) -> str:
    """Why nothing listens at host:port; "" if something does or the address is of another form."""
    host, _, port = address.rpartition("://")[2].partition(":")
    if not port.isdigit():
        return ""
    try:
        socket.create_connection((host, int(port)), timeout=REACH_TIMEOUT_S).close()
    except OSError as error:
        return f"{address}: {error}"
    return ""
