"""What a store should hold: its parts with their hashes, and the ids that were asked for.

    manifest.json      sites and widths, columns, parts (rows, bytes, SHA-256), meta
    expected.parquet   every id asked for; `error` says why a row was put aside, else ""

The ids are kept apart from the parts on purpose: only so can `verify` tell that one is missing.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sightline.activations.folder import Folder
from sightline.activations.parts import FORMAT, LAYERS, VERSION, PartRecord
from sightline.activations.sites import Site
from sightline.errors import DataError, StorageError

MANIFEST = "manifest.json"
EXPECTED = "expected.parquet"


@dataclass(frozen=True, slots=True)
class Manifest:
    """`widths` maps site names, in the asked order, to D; `columns` names to types."""

    parts: tuple[PartRecord, ...]
    widths: dict[str, int]
    columns: dict[str, str]
    expected_rows: int
    expected_sha256: str
    quarantined: int
    meta: dict[str, Any]

    @property
    def rows(self) -> int:
        return sum(part.rows for part in self.parts)


def write_manifest(
    folder: str | os.PathLike[str],
    parts: Sequence[PartRecord],
    *,
    sites: Sequence[Site],
    expected_ids: Iterable[str],
    meta: Mapping[str, Any],
    quarantined: Mapping[str, str] | None = None,
) -> Manifest:
    """Make a folder of parts a store. Call it once, when all parts are written.

    `quarantined` maps the ids of failed rows to the reason; they are expected, and in no
    part. `meta` is JSON: model, identity, settings. Raises `DataError` if an id is expected
    twice, or the parts do not agree with each other, `sites` or the number of expected ids.
    """
    ids, reasons = [str(value) for value in expected_ids], dict(quarantined or {})
    _check_count(ids, reasons, sum(part.rows for part in parts))
    widths, columns = _agreed(parts, [site.name for site in sites])
    table = _expected_file(ids, reasons)
    manifest = Manifest(
        parts=tuple(parts),
        widths=widths,
        columns=columns,
        expected_rows=len(ids),
        expected_sha256=hashlib.sha256(table).hexdigest(),
        quarantined=len(reasons),
        meta=json.loads(json.dumps(dict(meta), sort_keys=True)),
    )
    place = Folder.at(folder)
    place.write(EXPECTED, table)
    place.write(MANIFEST, _to_json(manifest))
    return manifest


def read_manifest(folder: Folder) -> Manifest:
    """The manifest of a store. Raises `StorageError` if there is none, or none of ours."""
    if MANIFEST not in folder.sizes():
        raise StorageError(
            expected=f"a store of activations at {folder.uri}",
            got=f"no {MANIFEST} there",
            hint="name a folder that `python jobs/extract.py` wrote; if that run was cut off, start it again",
        )
    try:
        value = json.loads(folder.read(MANIFEST))
    except ValueError as error:
        raise StorageError(expected=f"{MANIFEST} of {folder.uri} to be JSON", got=str(error)) from error
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise StorageError(expected=f"{MANIFEST} of {folder.uri} to say format={FORMAT}", got="other")
    if value.get("version") != VERSION:
        raise StorageError(
            expected=f"version {VERSION} of the format", got=f"version {value.get('version')} in {folder.uri}"
        )
    try:
        return Manifest(
            parts=tuple(PartRecord.from_json(part) for part in value["parts"]),
            widths={site["name"]: site["width"] for site in value["sites"]},
            columns=value["columns"],
            expected_rows=value["expected"]["rows"],
            expected_sha256=value["expected"]["sha256"],
            quarantined=value["expected"]["quarantined"],
            meta=value["meta"],
        )
    except (KeyError, TypeError) as error:
        raise StorageError(expected=f"a whole {MANIFEST} in {folder.uri}", got=f"{error!r}") from error


def read_expected(folder: Folder) -> dict[str, str]:
    """Every expected id with the reason why it was put aside, or "". Raises `StorageError`."""
    try:
        table = pq.read_table(io.BytesIO(folder.read(EXPECTED)))
        return dict(zip(table["id"].to_pylist(), table["error"].to_pylist(), strict=True))
    except (KeyError, pa.ArrowException) as error:
        raise StorageError(expected=f"a readable {EXPECTED} in {folder.uri}", got=str(error)) from error


def _check_count(ids: Sequence[str], reasons: Mapping[str, str], rows: int) -> None:
    if len(set(ids)) < len(ids):
        twice = Counter(ids).most_common(1)[0][0]
        raise DataError(expected="every expected id once", got=f"{twice!r} more than once")
    unknown = sorted(set(reasons) - set(ids))
    if unknown:
        raise DataError(expected="rows put aside to be among the expected", got=repr(unknown[0]))
    if rows + len(reasons) != len(ids):
        raise DataError(
            expected=f"rows in parts and rows put aside to make up the {len(ids)} expected",
            got=f"{rows} and {len(reasons)}",
        )


def _expected_file(ids: Sequence[str], reasons: Mapping[str, str]) -> bytes:
    errors = [(reasons[row_id] or "no reason given") if row_id in reasons else "" for row_id in ids]
    stream = io.BytesIO()
    pq.write_table(
        pa.table({"id": pa.array(ids, pa.string()), "error": pa.array(errors, pa.string())}),
        stream,
        compression="zstd",
    )
    return stream.getvalue()


def _agreed(parts: Sequence[PartRecord], names: Sequence[str]) -> tuple[dict[str, int], dict[str, str]]:
    """Widths in the order of `names`, and column types; parts without rows have no say."""
    said = [part for part in parts if part.rows]
    widths = dict(said[0].sites) if said else dict.fromkeys(names, 0)
    columns = sorted(said[0].columns) if said else []
    for part in said:
        if part.sites != widths or set(part.sites) != set(names):
            raise DataError(
                expected=f"every part to hold {', '.join(names)}, as wide as in {said[0].name}",
                got=f"{part.sites} in {part.name}",
            )
        if sorted(part.columns) != columns:
            raise DataError(
                expected=f"every part to have the columns {', '.join(columns)}",
                got=f"{', '.join(sorted(part.columns))} in {part.name}",
            )
    return {name: widths[name] for name in names}, {name: _common_type(said, name) for name in columns}


def _common_type(parts: Sequence[PartRecord], column: str) -> str:
    """The type that holds a column's values in every part; `none` where all are None fits any."""
    kinds = {part.columns[column] for part in parts} - {"none"}
    if len(kinds) == 1:
        return kinds.pop()
    if "text" in kinds:
        where = {part.columns[column]: part.name for part in parts}
        raise DataError(expected=f"texts or numbers in the column {column}", got=f"both: {where}")
    return "float64"


def _to_json(manifest: Manifest) -> bytes:
    value = {
        "format": FORMAT,
        "version": VERSION,
        "layers": LAYERS,
        "rows": manifest.rows,
        "sites": [{"name": name, "width": width} for name, width in manifest.widths.items()],
        "columns": manifest.columns,
        "parts": [part.to_json() for part in manifest.parts],
        "expected": {
            "file": EXPECTED,
            "rows": manifest.expected_rows,
            "sha256": manifest.expected_sha256,
            "quarantined": manifest.quarantined,
        },
        "meta": manifest.meta,
    }
    return (json.dumps(value, indent=1) + "\n").encode()
