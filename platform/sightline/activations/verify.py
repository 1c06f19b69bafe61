"""Proof that a store is whole: every byte as written, every expected id exactly once.

Reads everything, one part at a time. It knows no repair: the job that wrote a damaged part
writes it again.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import h5py
import numpy as np

from sightline.activations import precision
from sightline.activations.folder import Folder
from sightline.activations.manifest import EXPECTED, Manifest, read_expected, read_manifest
from sightline.activations.parts import PartRecord, hash_ids, opened, texts
from sightline.errors import StorageError

_NAMED = 3
"""So many examples are named in a fault."""


@dataclass(frozen=True, slots=True)
class Report:
    """What was found. `faults` are sentences that begin with the file concerned."""

    folder: str
    parts: int
    sites: int
    bytes: int
    expected: int
    present: int
    """Expected ids found exactly once in a sound part."""
    quarantined: int
    """Rows that failed and are named with their reason; they are in no part."""
    faults: tuple[str, ...]

    @property
    def ok(self) -> bool:
        return not self.faults

    def lines(self) -> Iterator[str]:
        """For a person to read: the faults, then the sum."""
        for fault in self.faults:
            yield f"fault: {fault}"
        verdict = "ok" if self.ok else f"{len(self.faults)} faults"
        yield (
            f"{verdict}: {self.folder}: {self.present:,} of {self.expected:,} expected ids exactly once, "
            f"{self.quarantined:,} put aside; {self.sites} sites, {self.parts} parts, "
            f"{self.bytes / 2**20:,.1f} MiB read"
        )


@dataclass(slots=True)
class _Findings:
    faults: list[str] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    """Of all parts whose bytes are sound, in their order."""
    bytes: int = 0


def verify(folder: str | os.PathLike[str]) -> Report:
    """Check a store against its manifest: hashes, ids, shapes, numbers.

    Raises `StorageError` if the folder is no store at all (no manifest, or another's).
    """
    place = Folder.at(folder)
    manifest = read_manifest(place)
    found = _Findings()
    sizes = place.sizes()
    for part in manifest.parts:
        if part.name in sizes:
            _check_part(place, part, manifest, found)
        else:
            found.faults.append(f"{part.name}: missing, with its {part.rows:,} rows")
    listed = {part.name for part in manifest.parts}
    found.faults += [
        f"{name}: not in the manifest" for name in sorted(sizes) if _is_part(name) and name not in listed
    ]
    present, quarantined = _check_ids(place, manifest, found)
    return Report(
        folder=place.uri,
        parts=len(manifest.parts),
        sites=len(manifest.widths),
        bytes=found.bytes,
        expected=manifest.expected_rows,
        present=present,
        quarantined=quarantined,
        faults=tuple(found.faults),
    )


def _is_part(name: str) -> bool:
    return name.endswith(".h5")


def _check_part(place: Folder, part: PartRecord, manifest: Manifest, found: _Findings) -> None:
    try:
        data = place.read(part.name)
    except StorageError as error:
        found.faults.append(f"{part.name}: {error}")
        return
    found.bytes += len(data)
    if len(data) != part.bytes:
        what = "cut short" if len(data) < part.bytes else "too long"
        found.faults.append(f"{part.name}: {what}: {len(data):,} bytes of {part.bytes:,}")
        return
    if hashlib.sha256(data).hexdigest() != part.sha256:
        found.faults.append(f"{part.name}: changed since it was written (SHA-256 differs)")
        return
    try:
        with opened(data, part.name) as file:
            ids = texts(file["ids"]).tolist()
            found.ids += ids
            found.faults += [f"{part.name}: {fault}" for fault in _content(file, ids, part, manifest)]
    except StorageError as error:
        found.faults.append(f"{part.name}: {error}")


def _content(file: h5py.File, ids: Sequence[str], part: PartRecord, manifest: Manifest) -> Iterator[str]:
    """What is wrong inside one readable part."""
    if len(ids) != part.rows or hash_ids(ids) != part.id_hash:
        yield f"its {len(ids):,} ids are not the {part.rows:,} of the manifest"
    if not ids:
        return
    features, columns = file["features"], file["columns"]
    if set(features) != set(manifest.widths):
        yield f"it holds other sites than the manifest: {_some(set(features) ^ set(manifest.widths))}"
    for name in sorted(set(features) & set(manifest.widths)):
        shape = (len(ids), manifest.widths[name])
        if features[name].shape != shape:
            yield f"{name} has the shape {features[name].shape} instead of {shape}"
            continue
        matrix_ND = np.empty(shape, np.float32)
        precision.read(features[name], 0, len(ids), matrix_ND)
        bad = np.flatnonzero(~np.isfinite(matrix_ND).all(axis=1))
        if len(bad):
            yield f"{name}: NaN or infinity in {len(bad):,} rows ({_some(ids[row] for row in bad)})"
    for name in sorted(manifest.columns):
        if name not in columns or columns[name].shape != (len(ids),):
            yield f"the column {name} is missing or has not {len(ids):,} values"


def _check_ids(place: Folder, manifest: Manifest, found: _Findings) -> tuple[int, int]:
    """(expected ids present exactly once, ids put aside); faults for all others."""
    try:
        data = place.read(EXPECTED)
        if hashlib.sha256(data).hexdigest() != manifest.expected_sha256:
            found.faults.append(f"{EXPECTED}: changed since it was written (SHA-256 differs)")
        expected = read_expected(place)
    except StorageError as error:
        found.faults.append(f"{EXPECTED}: {error}")
        return 0, 0
    wanted = {row_id for row_id, reason in expected.items() if not reason}
    aside = {row_id for row_id, reason in expected.items() if reason}
    counts = Counter(found.ids)
    present = {row_id for row_id, n in counts.items() if n == 1 and row_id in wanted}
    for ids, fault in (
        (
            [row_id for row_id in expected if row_id in wanted and row_id not in counts],
            "are in no sound part",
        ),
        ([row_id for row_id, n in counts.items() if n > 1], "are there more than once"),
        ([row_id for row_id in counts if row_id not in expected], "were never asked for"),
        ([row_id for row_id in counts if row_id in aside], "were put aside and yet are there"),
    ):
        if ids:
            found.faults.append(f"ids: {len(ids):,} {fault} ({_some(ids)})")
    return len(present), len(aside)


def _some(names: Iterable[str]) -> str:
    """The first few, for a sentence."""
    listed = list(names)
    return ", ".join(listed[:_NAMED]) + (", ..." if len(listed) > _NAMED else "")
