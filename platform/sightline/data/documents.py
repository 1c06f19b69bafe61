"""JSON files as benchmarks publish them: one document, or one JSON value a line."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sightline.data.examples import json_lines, wrong
from sightline.data.licences import require
from sightline.errors import DataError


def load_json(path: Path, name: str) -> Any:
    """A JSON document of benchmark `name`. Raises DataError: what to download, or where it is broken."""
    require(path, name)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(expected=f"a JSON document at {path}", got=str(error)) from error


def objects_of(path: Path, name: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """(number, object) of a JSON list, or of JSON lines; which of the two, the content tells.

    Raises DataError naming what to download, or the entry that is no object.
    """
    require(path, name)
    with path.open(encoding="utf-8") as file:
        first = file.read(64).lstrip()[:1]
    rows = enumerate(load_json(path, name), start=1) if first == "[" else json_lines(path)
    for number, row in rows:
        if not isinstance(row, dict):
            raise wrong(path, number, "an object", type(row).__name__)
        yield number, row


def sha256_of_file(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def need(row: dict[str, Any], names: tuple[str, ...], path: Path, number: int) -> None:
    """Raises DataError naming the row when one of the keys is not in it."""
    if missing := [name for name in names if name not in row]:
        raise wrong(
            path, number, f"an object with {', '.join(names)}", f"none of {', '.join(missing)} in {list(row)}"
        )
