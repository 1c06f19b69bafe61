"""A store written as HALP's files, for tools that read those.

`halp.py` says what the files look like and mean.
"""

from __future__ import annotations

import csv
import datetime
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from sightline.activations.folder import without_parts
from sightline.activations.halp import LABEL_COLUMN, PART_ROWS, TEXTS, Convention, Layers, Query, group_name
from sightline.activations.store import ActivationStore
from sightline.errors import DataError


@dataclass(frozen=True, slots=True)
class Exported:
    """`left_out` are the sites of the store for which HALP's layout has no place."""

    files: tuple[str, ...]
    rows: int
    left_out: tuple[str, ...]


def export_halp(
    store: ActivationStore,
    folder: str | os.PathLike[str],
    *,
    layers: Layers = "hidden_states",
    query: Query = "query_token",
    name: str = "",
) -> Exported:
    """Write a store in HALP's layout, and its labels as HALP's CSV (`labels.csv`).

    `query` says which of our positions fills `query_token_representation`. `name` begins
    the files' names (default: the model's). Raises `DataError` if no site has a place in
    the layout, `StorageError` if the folder already holds HDF5 files.
    """
    convention, out = Convention(layers, query), without_parts(folder)
    paths = {site.name: convention.path(site) for site in store.sites}
    placed = {site: path for site, path in paths.items() if path}
    if not placed:
        raise DataError(
            expected=f"a site that HALP's layout knows (vision_only, vision_token, {query})",
            got=", ".join(paths),
        )
    facts = _facts(store) | convention.attributes()
    stem = name or Path(facts["model_name"]).name.lower()
    columns = {theirs: store.column(ours) for theirs, ours in TEXTS.items() if ours in store.columns}
    files = []
    for number, start in enumerate(range(0, len(store), PART_ROWS), start=1):
        rows = np.arange(start, min(start + PART_ROWS, len(store)))
        features = {path: store.features(site, rows) for site, path in placed.items()}
        texts = {key: columns[key][rows] if key in columns else [""] * len(rows) for key in TEXTS}
        files.append(f"{stem}_embeddings_part_{number:03d}.h5")
        out.write(files[-1], _halp_file(store.ids[rows], features, texts, facts))
    if "label" in store.columns:
        out.write("labels.csv", _labels_csv(store))
    return Exported(tuple(files), len(store), tuple(site for site, path in paths.items() if not path))


def _facts(store: ActivationStore) -> dict[str, Any]:
    """HALP's attributes, as far as the store knows them; its `model` is a name or a mapping."""
    model = store.meta.get("model", "unknown")
    known = dict(model) if isinstance(model, Mapping) else {"source": model}
    return {
        "model_name": str(known.get("source", "unknown")),
        "model_type": str(known.get("model_type", "unknown")),
        "device": str(known.get("device", "unknown")),
        "dtype": "float32",
        "created_at": datetime.datetime.now().isoformat(),
    }


def _halp_file(
    ids: Sequence[str],
    features: Mapping[str, np.ndarray],
    texts: Mapping[str, Sequence[str]],
    facts: Mapping[str, Any],
) -> bytes:
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file.attrs.update({**facts, "num_samples": len(ids)})
        for row, name in enumerate(ids):
            group = file.create_group(group_name(name))
            for key, values in texts.items():
                group.create_dataset(key, data=str(values[row]), dtype=h5py.string_dtype())
            for path, matrix_ND in features.items():
                group.create_dataset(path, data=matrix_ND[row], compression="gzip")
    return buffer.getvalue()


def _labels_csv(store: ActivationStore) -> bytes:
    """HALP's four columns, for rows whose label is known."""
    stream = io.StringIO()
    writer = csv.writer(stream)
    writer.writerow(["question_id", "image_id", "question", LABEL_COLUMN])
    named = {key: store.column(key) for key in ("image_id", "question") if key in store.columns}
    for row, label in enumerate(store.column("label").astype(np.float64)):
        if np.isfinite(label):
            texts = [named[key][row] if key in named else "" for key in ("image_id", "question")]
            writer.writerow([group_name(store.ids[row]), *texts, bool(label)])
    return stream.getvalue().encode()
