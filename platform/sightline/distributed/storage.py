"""A folder on a disk or in a bucket whose files appear whole or not at all.

Everything that must survive a kill is written here: to a temporary name first, then
renamed. Paths are made absolute at once, because Ray runs workers in other folders.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from sightline.errors import StorageError

_TEMPORARY = ".tmp"


@dataclass(frozen=True, slots=True)
class Storage:
    """One folder. `uri` is absolute: `/a/b` or `s3://bucket/a/b`. Picklable."""

    uri: str

    @classmethod
    def at(cls, location: str | os.PathLike[str]) -> Storage:
        """The folder at a path or URI, created if need be.

        Raises `StorageError` if it cannot be written to.
        """
        text = os.fspath(location)
        storage = cls(text if "://" in text else str(Path(text).expanduser().absolute()))
        try:
            storage._filesystem.create_dir(storage._path(_TEMPORARY), recursive=True)
            storage.write_bytes(".writable", b"")
            storage.delete(".writable")
        except OSError as error:
            raise StorageError(
                expected=f"a folder that can be written at {storage.uri}",
                got=str(error),
                hint="choose another run.root, or free the space or the permission",
            ) from error
        return storage

    def write_bytes(self, name: str, data: bytes) -> None:
        """Write one whole file; a reader never sees half of it."""
        temporary = self._temporary(name)
        with self._filesystem.open_output_stream(temporary) as stream:
            stream.write(data)
        self._filesystem.move(temporary, self._path(name))

    def write_json(self, name: str, value: Any) -> None:
        self.write_bytes(name, (json.dumps(value, indent=1, sort_keys=True) + "\n").encode())

    def write_table(self, name: str, table: pa.Table) -> int:
        """Write one whole parquet file and return its size in bytes."""
        return self.write_row_groups(name, [table], table.schema)

    def write_row_groups(self, name: str, groups: Iterable[pa.Table], schema: pa.Schema) -> int:
        """Write one whole parquet file with one row group per table; returns its size in bytes."""
        temporary = self._temporary(name)
        with pq.ParquetWriter(temporary, schema, filesystem=self._filesystem) as writer:
            for group in groups:
                writer.write_table(group, row_group_size=max(1, len(group)))
        size = self._filesystem.get_file_info(temporary).size
        self._filesystem.move(temporary, self._path(name))
        return int(size)

    def read_bytes(self, name: str) -> bytes:
        """One whole file."""
        with self._filesystem.open_input_stream(self._path(name)) as stream:
            return bytes(stream.read())

    def read_json(self, name: str) -> Any:
        with self._filesystem.open_input_stream(self._path(name)) as stream:
            return json.loads(stream.read())

    def read_table(self, name: str, columns: list[str] | None = None) -> pa.Table:
        return pq.read_table(self._path(name), filesystem=self._filesystem, columns=columns)

    def open_parquet(self, name: str) -> pq.ParquetFile:
        """The open file, of which single row groups can be read."""
        return pq.ParquetFile(self._filesystem.open_input_file(self._path(name)))

    def exists(self, name: str) -> bool:
        return self._filesystem.get_file_info(self._path(name)).type == pafs.FileType.File

    def sizes(self) -> dict[str, int]:
        """Every file directly in the folder, with its size in bytes."""
        files = self._filesystem.get_file_info(pafs.FileSelector(self._path(""), allow_not_found=True))
        return {f.base_name: int(f.size) for f in files if f.type == pafs.FileType.File}

    def delete(self, name: str) -> None:
        """Remove one file; a missing one is no error."""
        if self.exists(name):
            self._filesystem.delete_file(self._path(name))

    def clear_temporary(self) -> None:
        """Remove what killed writers left behind. Only when no other writer is at work."""
        self._filesystem.delete_dir_contents(self._path(_TEMPORARY), missing_dir_ok=True)

    @property
    def _filesystem(self) -> pafs.FileSystem:
        return pafs.FileSystem.from_uri(self.uri)[0]

    def _path(self, name: str) -> str:
        root = pafs.FileSystem.from_uri(self.uri)[1]
        return f"{root}/{name}" if name else root

    def _temporary(self, name: str) -> str:
        return self._path(f"{_TEMPORARY}/{uuid.uuid4().hex}-{name}")
