"""WebDataset tar shards -> examples that point into the tar: nothing is unpacked.

A sample is the members that share a name up to the first dot of its last part: `a/000012.jpg`
beside `a/000012.json`. The JSON holds one row (question, answer, ...) or a list of them. The
image's URI names the tar and the byte range of the member, so a worker reads that range alone.
"""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sightline.data.examples import from_rows, wrong
from sightline.data.tables import map_columns
from sightline.errors import DataError
from sightline.records import Example

_IMAGES = ("jpg", "jpeg", "png", "webp")
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_MAX_JSON = 16 << 20


def read_webdataset(
    path: str | Path,
    *,
    columns: Mapping[str, str] | None = None,
    kind: str | None = None,
    source: str = "",
    limit: int | None = None,
) -> list[Example]:
    """Examples of a tar file, a folder of them, or a pattern such as `shard-{000..127}.tar`.

    A row's `example_id` is by default the sample's key (`key/n` for the rows of a list), its
    `image_id` the key. Raises DataError naming the shard.
    """
    rows: list[tuple[int, Any]] = []
    shards = shards_of(path)
    for shard in shards:
        mapped = map_columns(_rows(shard), shard, columns=columns or {}, kind=kind, source=source)
        rows += [(len(rows) + n, row) for n, (_, row) in enumerate(mapped, start=1)]
        if limit is not None and len(rows) >= limit:
            break
    return from_rows(rows, Path(path), shards[0].parent, limit)


def shards_of(path: str | Path) -> list[Path]:
    """The tar files that a path, folder or pattern means, in order. Raises DataError if one is missing."""
    text = str(Path(path).absolute())
    found = _RANGE.search(text)
    if found:
        first, last = found[1], found[2]
        numbers = (str(n).zfill(len(first)) for n in range(int(first), int(last) + 1))
        shards = [Path(text[: found.start()] + n + text[found.end() :]) for n in numbers]
    elif Path(text).is_dir():
        shards = sorted(Path(text).glob("*.tar"))
    else:
        shards = [Path(text)]
    missing = [shard for shard in shards if not shard.is_file()]
    if missing or not shards:
        got = f"no {missing[0].name}" if missing else "none"
        raise DataError(expected=f"tar shards at {path}", got=got, hint="check dataset.path")
    return shards


def _rows(shard: Path) -> Iterator[tuple[int, Any]]:
    """Rows of one shard with `image_uri`, and default ids, numbered from 1."""
    number = 0
    for key, uri, described in _samples(shard):
        if uri is None or described is None:
            lacking = "image" if uri is None else "json"
            raise wrong(shard, number + 1, f"an image and a json for {key!r}", f"no {lacking}")
        several = isinstance(described, list)
        for n, row in enumerate(described if several else [described]):
            number += 1
            ids = {"example_id": f"{key}/{n}" if several else key, "image_id": key}
            yield number, (ids | row | {"image_uri": uri}) if isinstance(row, dict) else row


def _samples(shard: Path) -> Iterator[tuple[str, str | None, Any]]:
    """(key, image URI, content of the JSON) for each run of members of one key."""
    key, uri, described = "", None, None
    try:
        # "r:" reads plain tars only: inside a compressed one a byte range means nothing.
        with tarfile.open(shard, "r:") as tar:
            for member in tar:
                if not member.isfile():
                    continue
                folder, _, name = member.name.rpartition("/")
                stem, _, extension = name.partition(".")
                member_key = f"{folder}/{stem}".lstrip("/")
                if key and member_key != key:
                    yield key, uri, described
                    uri, described = None, None
                key = member_key
                if extension.lower() in _IMAGES:
                    uri = f"tar://{quote(str(shard))}?offset={member.offset_data}&size={member.size}"
                elif extension.lower() == "json":
                    file = tar.extractfile(member)
                    assert file is not None
                    described = json.loads(file.read(_MAX_JSON))
    except (tarfile.TarError, ValueError) as error:
        raise DataError(
            expected=f"a whole, uncompressed tar with JSON members at {shard}",
            got=f"{error} (after {key or 'no sample'})",
            hint="fetch it again, or unpack and repack it without compression",
        ) from error
    if key:
        yield key, uri, described
