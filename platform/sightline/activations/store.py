"""The store, read: whole sites or some of their rows, whichever part they lie in.

    store = ActivationStore.open("runs/extract")
    store.features("query_token.layer_12", rows=test_idx)      # (n, D) float32
    store.column("label")                                      # (N,) float64, NaN = unknown

Opening reads the manifest and looks at the files' sizes; `verify.py` reads every byte.
A store never changes once its manifest is written, so nothing is kept open between calls
and an `ActivationStore` may be pickled, threaded and forked.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import h5py
import numpy as np

from sightline.activations import precision
from sightline.activations.folder import Folder
from sightline.activations.manifest import Manifest, read_manifest
from sightline.activations.parts import PartRecord, opened, texts
from sightline.activations.sites import Site
from sightline.errors import DataError, StorageError

Rows = np.ndarray | list[int] | slice | None
"""Which rows: numbers (negative ones count from the end), a mask, a slice, or None for all."""
_DENSE = 8
"""Rows of a part are read in one go when at least one in so many of their range is wanted."""


@dataclass(frozen=True)
class ActivationStore:
    """N rows of activations at several sites, with their ids and columns."""

    folder: Folder
    manifest: Manifest

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> ActivationStore:
        """Raises `StorageError` that names what is wrong: no manifest, a part missing or cut short."""
        place = Folder.at(folder)
        manifest = read_manifest(place)
        sizes = place.sizes()
        for part in manifest.parts:
            size = sizes.get(part.name)
            if size != part.bytes:
                raise StorageError(
                    expected=f"{part.bytes} bytes in {part.name} of {place.uri}",
                    got="no such file" if size is None else f"{size}: it was cut short or changed",
                    hint="start the job that wrote it again: it redoes this part alone",
                )
        return cls(place, manifest)

    @property
    def sites(self) -> tuple[Site, ...]:
        return tuple(Site.parse(name) for name in self.manifest.widths)

    @property
    def widths(self) -> dict[str, int]:
        """Site name -> D."""
        return dict(self.manifest.widths)

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(self.manifest.columns)

    @property
    def meta(self) -> dict[str, Any]:
        """What the writer said about itself: model, identity, settings."""
        return self.manifest.meta

    def __len__(self) -> int:
        return self.manifest.rows

    @cached_property
    def ids(self) -> np.ndarray:
        """(N,) str objects, in the order of all rows."""
        return self._gather([texts(file["ids"]) for _, file in self._files()], np.dtype(object))

    def column(self, name: str) -> np.ndarray:
        """(N,): str objects, float64 (NaN = none), int64 or bool. Raises `DataError` for no such column."""
        if name not in self.manifest.columns:
            raise DataError(expected=f"a column among {', '.join(self.columns) or '(none)'}", got=repr(name))
        kind = self.manifest.columns[name]
        found = [_values(file["columns"][name], kind) for _, file in self._files()]
        return self._gather(found, np.dtype(object if kind == "text" else kind))

    def features(self, site: Site | str, rows: Rows = None) -> np.ndarray:
        """(n, D) float32 of one site, in the order of `rows`; only parts that hold them are read.

        Raises `DataError` for a site or row that is not there, `StorageError` for a damaged part.
        """
        name = site.name if isinstance(site, Site) else site
        if name not in self.manifest.widths:
            raise DataError(expected=f"a site among {', '.join(self.manifest.widths)}", got=repr(name))
        wanted_n = self._numbers(rows)
        out_nD = np.empty((len(wanted_n), self.manifest.widths[name]), np.float32)
        order_n = np.argsort(wanted_n, kind="stable")
        sorted_n = wanted_n[order_n]
        begin = 0
        for part in self.manifest.parts:
            low, high = np.searchsorted(sorted_n, (begin, begin + part.rows))
            if high > low:
                with opened(self.folder.open(part.name), part.name) as file:
                    _fill(file["features"][name], sorted_n[low:high] - begin, order_n[low:high], out_nD)
            begin += part.rows
        return out_nD

    def _numbers(self, rows: Rows) -> np.ndarray:
        try:
            return np.arange(len(self))[slice(None) if rows is None else rows]
        except IndexError as error:
            raise DataError(expected=f"rows of a store of {len(self)}", got=str(error)) from error

    def _files(self) -> Iterator[tuple[PartRecord, h5py.File]]:
        for part in self.manifest.parts:
            if part.rows:
                with opened(self.folder.open(part.name), part.name) as file:
                    yield part, file

    def _gather(self, arrays: list[np.ndarray], kind: np.dtype) -> np.ndarray:
        return np.concatenate(arrays) if arrays else np.empty(0, kind)


def _fill(dataset: h5py.Dataset, rows_n: np.ndarray, places_n: np.ndarray, out_nD: np.ndarray) -> None:
    """Ascending rows of one part into their places of `out_nD`."""
    for low, high in _runs(rows_n):
        first, last = int(rows_n[low]), int(rows_n[high - 1])
        places = places_n[low:high]
        start, stop = int(places[0]), int(places[-1]) + 1
        if last - first == high - low - 1 and stop - start == high - low and (np.diff(places) == 1).all():
            precision.read(dataset, first, last + 1, out_nD[start:stop])  # straight into place
            continue
        block_nD = np.empty((last + 1 - first, out_nD.shape[1]), np.float32)
        precision.read(dataset, first, last + 1, block_nD)
        out_nD[places] = block_nD[rows_n[low:high] - first]


def _runs(rows_n: np.ndarray) -> Iterator[tuple[int, int]]:
    """[low, high) of stretches worth one read: gaps of up to `_DENSE` rows are read along."""
    cuts = np.flatnonzero(np.diff(rows_n) > _DENSE) + 1
    bounds = [0, *cuts.tolist(), len(rows_n)]
    yield from zip(bounds[:-1], bounds[1:], strict=True)


def _values(dataset: h5py.Dataset, kind: str) -> np.ndarray:
    if kind != "text":
        return dataset[()].astype(kind)
    if h5py.check_string_dtype(dataset.dtype) is None:  # all None in this part
        return np.full(len(dataset), "", dtype=object)
    return texts(dataset)
