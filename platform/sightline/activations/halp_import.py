"""HALP's files, and its CSV of labels, read into a store.

`halp.py` says what the files look like and mean. Nothing is guessed: a file that does not
say which convention it follows is read by the one that is passed.
"""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from sightline.activations.folder import without_parts
from sightline.activations.halp import (
    LABEL_COLUMN,
    QUERY,
    TEXTS,
    VISION,
    VISION_ONLY,
    Convention,
    Layers,
    Query,
    row_id,
)
from sightline.activations.manifest import write_manifest
from sightline.activations.parts import Column, PartRecord, opened, write_part
from sightline.activations.store import ActivationStore
from sightline.errors import DataError, StorageError

_LABELS = {"true": 1.0, "1": 1.0, "1.0": 1.0, "yes": 1.0, "false": 0.0, "0": 0.0, "0.0": 0.0, "no": 0.0}


@dataclass(slots=True)
class _Questions:
    """One file's questions, in its order; `reasons` says why a row is put aside, else ""."""

    names: list[str]
    ids: list[str]
    texts: dict[str, list[str]]
    vectors: dict[str, list[np.ndarray | None]]
    reasons: list[str]


def import_halp(
    source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    folder: str | os.PathLike[str],
    *,
    layers: Layers = "hidden_states",
    query: Query = "prompt_token",
    labels: Mapping[str, float] | None = None,
) -> ActivationStore:
    """Make a store of HALP's files: a folder of them, or a list; one part a file.

    `layers` and `query` say what the files mean, unless they say it themselves. A question
    that lacks a representation, has one of another width than most, or one with NaN, is put
    aside with its reason. `labels` maps question ids to 0 or 1 (`read_labels`); all others
    get NaN. Raises `DataError` if an id is in two files, `StorageError` if a file is damaged.
    """
    files, out = _sources(source), without_parts(folder)
    convention, meta = _agreed(files, Convention(layers, query))
    widths: dict[str, int] = {}
    parts: list[PartRecord] = []
    expected: list[str] = []
    aside: dict[str, str] = {}
    for number, file in enumerate(files):
        found = _read(file)
        widths = widths or _widths(found)
        _judge(found, widths)
        expected += found.ids
        aside |= {i: reason for i, reason in zip(found.ids, found.reasons, strict=True) if reason}
        parts.append(_part(f"{out.uri}/part-{number:06d}.h5", found, widths, convention, labels or {}))
    sites = [convention.site(path) for path in widths]
    write_manifest(out.uri, parts, sites=sites, expected_ids=expected, quarantined=aside, meta=meta)
    return ActivationStore.open(out.uri)


def read_labels(
    path: str | os.PathLike[str], *, column: str = LABEL_COLUMN, id_column: str = "question_id"
) -> dict[str, float]:
    """Question id -> 1.0 (hallucinating) or 0.0, of HALP's CSV; empty cells are left out.

    Raises `DataError` for a missing column, a repeated id, or a value that is neither.
    """
    with open(path, newline="", encoding="utf-8") as stream:
        reader = csv.DictReader(stream)
        for name in (id_column, column):
            if name not in (reader.fieldnames or ()):
                raise DataError(
                    expected=f"a column {name} in {path}", got=", ".join(reader.fieldnames or ()) or "none"
                )
        labels: dict[str, float] = {}
        for row in reader:
            text = (row[column] or "").strip().lower()
            if row[id_column] in labels:
                raise DataError(expected=f"every {id_column} once in {path}", got=f"{row[id_column]!r} again")
            if text and text not in _LABELS:
                raise DataError(expected=f"true or false in {column} of {path}", got=repr(row[column]))
            if text:
                labels[row[id_column]] = _LABELS[text]
    return labels


def _sources(source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> list[Path]:
    if isinstance(source, str | os.PathLike):
        place = Path(source)
        files = sorted(place.glob("*.h5")) if place.is_dir() else [place]
    else:
        files = [Path(file) for file in source]
    missing = [file for file in files if not file.is_file()]
    if missing or not files:
        raise StorageError(
            expected=f"HALP's .h5 files at {source}", got=f"no file {missing[0]}" if missing else "none"
        )
    return files


def _agreed(files: Sequence[Path], told: Convention) -> tuple[Convention, dict[str, Any]]:
    """The one convention of all files, and what they say about the model.

    Looks into every file before the long reading begins, so also for ids that come twice.
    """
    said: dict[str, Convention] = {}
    facts: dict[str, Any] = {}
    ids: Counter[str] = Counter()
    for path in files:
        with opened(str(path), path.name) as file:
            ids.update(row_id(name, file.attrs) for name in file)
            said[path.name] = told.said_by(file.attrs)
            facts = facts or {key: _plain(value) for key, value in sorted(file.attrs.items())}
    if len(set(said.values())) > 1:
        raise DataError(expected="one convention of layers and query token in all files", got=str(said))
    twice = [name for name, n in ids.most_common(1) if n > 1]
    if twice:
        raise DataError(expected="every question id in one file", got=f"{twice[0]!r} in two of them")
    convention = said[files[0].name]
    meta = {
        "model": {
            "source": facts.get("model_name", "unknown"),
            "model_type": facts.get("model_type", "unknown"),
            "device": facts.get("device", "unknown"),
        },
        "imported": {"files": [path.name for path in files], "attributes": facts},
        "halp": {"layers": convention.layers, "query_token": convention.query},
    }
    return convention, meta


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else str(value)


def _read(path: Path) -> _Questions:
    with opened(str(path), path.name) as file:
        names = list(file)
        found = _Questions(
            names=names,
            ids=[row_id(name, file.attrs) for name in names],
            texts={key: [""] * len(names) for key in TEXTS},
            vectors={},
            reasons=[""] * len(names),
        )
        for row, name in enumerate(names):
            for key, dataset in _datasets(file[name]):
                if key in TEXTS:
                    found.texts[key][row] = _text(dataset[()])
                elif key == VISION_ONLY or key.startswith((f"{VISION}/", f"{QUERY}/")):
                    found.vectors.setdefault(key, [None] * len(names))[row] = np.asarray(
                        dataset[()], np.float32
                    )
        return found


def _datasets(group: h5py.Group) -> list[tuple[str, h5py.Dataset]]:
    """The datasets of a question, two levels deep, with their paths."""
    found: list[tuple[str, h5py.Dataset]] = []
    for key, item in group.items():
        if isinstance(item, h5py.Group):
            found += [(f"{key}/{inner}", item[inner]) for inner in item]
        else:
            found.append((key, item))
    return found


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _widths(found: _Questions) -> dict[str, int]:
    """Path -> the commonest width, vision first, layers in the order of their numbers."""
    widths = {}
    for path in sorted(
        found.vectors, key=lambda path: (path.count("/"), path.split("/")[0] == QUERY, len(path), path)
    ):
        sizes = Counter(vector.size for vector in found.vectors[path] if vector is not None)
        widths[path] = sizes.most_common(1)[0][0]
    return widths


def _judge(found: _Questions, widths: Mapping[str, int]) -> None:
    """Fill in `reasons`: only rows with every representation, whole and finite, become features."""
    for row in range(len(found.names)):
        for path, width in widths.items():
            vector = found.vectors[path][row] if path in found.vectors else None
            if vector is None:
                found.reasons[row] = f"no {path}"
            elif vector.shape != (width,):
                found.reasons[row] = f"{path} has the shape {vector.shape} instead of ({width},)"
            elif not np.isfinite(vector).all():
                found.reasons[row] = f"NaN or infinity in {path}"
            if found.reasons[row]:
                break
        if not widths:
            found.reasons[row] = "no representation at all"


def _part(
    path: str,
    found: _Questions,
    widths: Mapping[str, int],
    convention: Convention,
    labels: Mapping[str, float],
) -> PartRecord:
    good = [row for row, reason in enumerate(found.reasons) if not reason]
    features = {
        convention.site(key).name: np.asarray([found.vectors[key][row] for row in good], np.float32).reshape(
            -1, width
        )
        for key, width in widths.items()
    }
    columns: dict[str, Column] = {
        ours: [found.texts[theirs][row] for row in good] for theirs, ours in TEXTS.items()
    }
    columns["label"] = np.asarray([labels.get(found.names[row], np.nan) for row in good], np.float64)
    return write_part(path, ids=[found.ids[row] for row in good], features=features, columns=columns)
