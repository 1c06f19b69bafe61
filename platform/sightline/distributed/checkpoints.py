"""Checkpoints of a training run: what is written, by whom, and how a run finds its way back.

Every rank writes only its own shard, rank 0 the common files with `meta.json` beside them; Ray
merges the ranks' folders into one checkpoint. (The callback that ships with Ray uploads the whole
folder once for each rank.) The step, the history so far and the number of workers travel in
`meta.json`: a resumed run continues its curves and refuses another run's checkpoint.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sightline.distributed.engines import Engine
from sightline.errors import ConfigError, StorageError

_META = "meta.json"


@dataclass(frozen=True, slots=True)
class Meta:
    """What a checkpoint says about itself."""

    step: int
    """Optimiser steps finished."""
    world_size: int
    zero_stage: int
    fingerprint: dict[str, Any]
    """What must be equal for a resume to make sense: pairs, objective, batch, model, seed."""
    history: list[dict[str, float]] = field(default_factory=list)
    """One entry a finished step."""


def report(engine: Engine, meta: Meta, metrics: dict[str, float], *, rank: int) -> None:
    """Hand a checkpoint to Ray. A barrier: every rank calls it equally often."""
    import ray.train

    folder = Path(tempfile.mkdtemp(prefix="sightline-checkpoint-"))
    engine.save(folder)
    if rank == 0:
        (folder / _META).write_text(json.dumps(asdict(meta)))
    wrote = any(folder.iterdir())
    checkpoint = ray.train.Checkpoint.from_directory(str(folder)) if wrote else None
    ray.train.report(metrics, checkpoint=checkpoint, checkpoint_dir_name=f"step-{meta.step:06d}")
    shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def latest() -> Iterator[tuple[Path, Meta] | None]:
    """The folder and description of the checkpoint to resume from; None for a fresh start."""
    import ray.train

    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        yield None
        return
    with checkpoint.as_directory() as folder:
        yield Path(folder), read_meta(Path(folder))


def read_meta(folder: Path) -> Meta:
    """Raises StorageError when the checkpoint is not one of ours, or incomplete."""
    try:
        return Meta(**json.loads((folder / _META).read_text()))
    except (OSError, json.JSONDecodeError, TypeError) as error:
        raise StorageError(
            expected=f"a complete checkpoint in {folder}",
            got=str(error),
            hint="delete it to resume from the one before, or choose another run.name",
        ) from error


def check_same_run(saved: Meta, fingerprint: dict[str, Any]) -> None:
    """Raises ConfigError, naming what differs, if the checkpoint is of another training run."""
    changed = [
        f"{key}: {saved.fingerprint.get(key)!r} -> {fingerprint.get(key)!r}"
        for key in sorted(saved.fingerprint | fingerprint)
        if saved.fingerprint.get(key) != fingerprint.get(key)
    ]
    if changed:
        raise ConfigError(
            expected="to resume the training run that this run's folder holds",
            got="other settings (" + "; ".join(changed) + ")",
            hint="choose another run.name, or delete the folder to start afresh",
        )


@contextmanager
def universal(folder: Path, *, zero_stage: int) -> Iterator[Path]:
    """A copy that any number of workers can load, made by DeepSpeed's own converter.

    An ordinary ZeRO checkpoint is cut for the number of workers that wrote it.
    """
    with tempfile.TemporaryDirectory(prefix="sightline-universal-") as scratch:
        copy = Path(scratch) / "checkpoint"
        shutil.copytree(folder, copy)
        command = [
            *(sys.executable, "-m", "deepspeed.checkpoint.ds_to_universal"),
            *("--input_folder", str(copy / "state"), "--output_folder", str(copy / "state_universal")),
            *("--num_extract_workers", "1", "--num_merge_workers", "1"),
        ]
        if zero_stage < 3:  # ZeRO 1 and 2 do not write the state that the converter asks for
            command.append("--inject_missing_state")
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise StorageError(
                expected=f"to convert the checkpoint in {folder} for another number of workers",
                got=(done.stderr.strip().splitlines() or ["no message"])[-1],
                hint="resume with the number of workers that wrote it",
            )
        (copy / "latest_universal").write_text("state_universal")
        yield copy
