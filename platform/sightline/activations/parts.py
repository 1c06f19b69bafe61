"""One part of a store: an HDF5 file with a matrix a site and a column a fact.

    /ids                [N]      UTF-8, unique in the whole store
    /features/<site>    [N, D]   float32, or bfloat16 where that is exact (`precision.py`)
    /columns/<name>     [N]      UTF-8, float64, int64 or bool: image_id, question, label, ...

Matrices are contiguous and uncompressed: activations hardly compress, and any run of rows
is one read. Nothing in a part depends on the clock, the worker or the order of a mapping,
so equal content is equal bytes, whoever wrote it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np

from sightline.activations import precision
from sightline.activations.folder import Folder
from sightline.activations.sites import Site
from sightline.errors import DataError, StorageError

FORMAT, VERSION = "sightline-activations", 1
LAYERS = "layer i = output of decoder block i (from 0), before the final norm; embedding = input of block 0"
_TEXT = h5py.string_dtype("utf-8")
Column = Sequence[Any] | np.ndarray
"""N texts, numbers or None."""


@dataclass(frozen=True, slots=True)
class PartRecord:
    """What the manifest says about a part. `sites` maps names to widths, `columns` to types."""

    name: str
    rows: int
    bytes: int
    sha256: str
    id_hash: str
    sites: dict[str, int]
    columns: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> PartRecord:
        return cls(**value)


def write_part(
    path: str | os.PathLike[str],
    *,
    ids: Sequence[str],
    features: Mapping[str, np.ndarray],
    columns: Mapping[str, Column],
    attributes: Mapping[str, str | int | float | bool] | None = None,
) -> PartRecord:
    """Write one part, whole or not at all, to a path or URI; its folder is made if need be.

    `features` maps site names to [N, D], taken as float32; `columns` maps names to N texts, numbers or None
    (a number becomes NaN, a text ""). Memory: two copies of the part. Raises `DataError`
    before anything is written if an id repeats or is empty, lengths differ, a name is no
    site, or a value is not finite (find those rows first with `nonfinite_rows`). A part of
    0 rows is all right; it may leave out features and columns.
    """
    ids, matrices, arrays = _checked(ids, features, columns)
    data = _encode(ids, matrices, arrays, attributes or {})
    location, name = os.path.split(os.fspath(path))
    Folder.at(location or ".").write(name, data)
    return PartRecord(
        name=name,
        rows=len(ids),
        bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        id_hash=hash_ids(ids),
        sites={name: int(matrix.shape[1]) for name, matrix in matrices.items()},
        columns={name: _type_name(values) for name, values in arrays.items()},
    )


def nonfinite_rows(features: Mapping[str, np.ndarray]) -> dict[int, str]:
    """Row number -> the first site in which that row has NaN or an infinity."""
    found: dict[int, str] = {}
    for name, matrix in features.items():
        for row in np.flatnonzero(~np.isfinite(matrix).all(axis=1)):
            found.setdefault(int(row), name)
    return dict(sorted(found.items()))


def hash_ids(ids: Iterable[str]) -> str:
    """SHA-256 over ids in their order."""
    digest = hashlib.sha256()
    for value in ids:
        digest.update(value.encode() + b"\0")
    return digest.hexdigest()


@contextmanager
def opened(source: Any, name: str) -> Iterator[h5py.File]:
    """A part open for reading; whatever HDF5 says about it becomes a `StorageError`."""
    try:
        # No lock: parts never change once written, and network disks often refuse locks.
        with h5py.File(
            io.BytesIO(source) if isinstance(source, bytes) else source, "r", locking=False
        ) as file:
            yield file
    except (OSError, KeyError, RuntimeError) as error:
        raise StorageError(
            expected=f"a readable part {name}",
            got=f"{type(error).__name__}: {error}",
            hint="it was cut short or changed; the job that wrote it writes it again when started again",
        ) from error


def texts(dataset: h5py.Dataset) -> np.ndarray:
    """A column of UTF-8 as an object array of str, shape (N,)."""
    values = np.empty(len(dataset), dtype=object)
    values[:] = [value.decode() for value in dataset[()]]
    return values


# --- writing ----------------------------------------------------------------------------


def _encode(
    ids: list[str],
    matrices: Mapping[str, np.ndarray],
    arrays: Mapping[str, np.ndarray],
    attributes: Mapping[str, str | int | float | bool],
) -> bytes:
    buffer = io.BytesIO()
    # Old bounds on purpose: readable by every HDF5 since 2008, and no time stamps in objects.
    with h5py.File(buffer, "w", libver=("v108", "v108")) as file:
        facts = {"format": FORMAT, "version": VERSION, "layers": LAYERS, **attributes}
        for key in sorted(facts):
            file.attrs[key] = facts[key]
        file.create_dataset("ids", data=ids, dtype=_TEXT, track_times=False)
        features, columns = file.create_group("features"), file.create_group("columns")
        for name in sorted(matrices):
            precision.write(features, name, matrices[name])
        for name in sorted(arrays):
            values = arrays[name]
            columns.create_dataset(
                name, data=values, dtype=_TEXT if values.dtype == object else None, track_times=False
            )
    return buffer.getvalue()


def _checked(
    ids: Sequence[str], features: Mapping[str, np.ndarray], columns: Mapping[str, Column]
) -> tuple[list[str], dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Ids as str, features as float32 [N, D], columns as arrays [N]; or `DataError`."""
    found = [str(value) for value in ids]
    for value, times in Counter(found).items():
        if times > 1:
            raise DataError(expected="every id once in a part", got=f"{value!r} {times} times")
        if not value or _clean(value) != value:
            raise DataError(
                expected="ids of one or more characters, in UTF-8 and without NUL", got=repr(value)
            )
    matrices = {Site.parse(name).name: np.asarray(values, np.float32) for name, values in features.items()}
    for name, matrix in matrices.items():
        if matrix.ndim != 2 or len(matrix) != len(found):
            raise DataError(expected=f"{name} as [{len(found)}, D], a row for each id", got=str(matrix.shape))
    for row, name in nonfinite_rows(matrices).items():
        raise DataError(
            expected="finite features",
            got=f"NaN or infinity in {name} of {found[row]!r}",
            hint="put such rows aside with `nonfinite_rows`, or run the model in float32 or bfloat16",
        )
    arrays = {name: _column(name, values) for name, values in columns.items()}
    for name, values in arrays.items():
        if values.shape != (len(found),):
            raise DataError(expected=f"a value of {name} for each of {len(found)} ids", got=str(values.shape))
    return found, matrices, arrays


def _column(name: str, values: Column) -> np.ndarray:
    """Texts as objects; numbers as int64, float64 or bool."""
    if isinstance(values, np.ndarray) and values.dtype.kind in "iufb":
        return values.astype(
            {"i": np.int64, "u": np.int64, "f": np.float64, "b": np.bool_}[values.dtype.kind]
        )
    listed = list(values)
    known = [value for value in listed if value is not None]
    if all(isinstance(value, str) for value in known) and (known or not listed):
        array = np.empty(len(listed), dtype=object)
        array[:] = [_clean(value or "") for value in listed]
        return array
    if all(isinstance(value, bool | np.bool_) for value in listed):
        return np.asarray(listed, np.bool_)
    if all(isinstance(value, int | np.integer) for value in listed):
        return np.asarray(listed, np.int64)
    if all(isinstance(value, bool | int | float | np.number | np.bool_) for value in known):
        return np.asarray([np.nan if value is None else value for value in listed], np.float64)
    kinds = sorted({type(value).__name__ for value in known})
    raise DataError(expected=f"texts or numbers in the column {name}", got=", ".join(kinds))


def _clean(text: str) -> str:
    """What HDF5 can hold: no lone surrogates, and no NUL, which would end the text."""
    return text.encode("utf-8", "replace").decode().replace("\0", "\N{REPLACEMENT CHARACTER}")


def _type_name(values: np.ndarray) -> str:
    """The manifest's name of a type; a column of nothing but None is stored as NaN, called `none`."""
    if values.dtype == object:
        return "text"
    return (
        "none" if values.dtype == np.float64 and len(values) and np.isnan(values).all() else str(values.dtype)
    )
