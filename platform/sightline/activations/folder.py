"""A store's folder, on a disk or in a bucket: whole files in, whole files or pieces out.

The engine's `distributed.storage` does the same for runs and more; this is the small part
of it that a store needs to be opened where there is no engine.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs

from sightline.errors import StorageError

_TEMPORARY = ".tmp"


@dataclass(frozen=True, slots=True)
class Folder:
    """One folder. `uri` is absolute: `/a/b` or `s3://bucket/a/b`. Picklable."""

    uri: str

    @classmethod
    def at(cls, location: str | os.PathLike[str]) -> Folder:
        """The folder at a path or URI, whether it exists or not."""
        text = os.fspath(location)
        return cls(text.rstrip("/") if "://" in text else str(Path(text).expanduser().absolute()))

    def sizes(self) -> dict[str, int]:
        """Every file directly in the folder, with its size in bytes; {} if there is no folder."""
        with self._clear("a folder that can be read"):
            files = self._filesystem.get_file_info(pafs.FileSelector(self._path(""), allow_not_found=True))
        return {f.base_name: int(f.size) for f in files if f.type == pafs.FileType.File}

    def read(self, name: str) -> bytes:
        """One whole file. Raises `StorageError` if it cannot be read."""
        with (
            self._clear(f"a file {name} that can be read"),
            self._filesystem.open_input_stream(self._path(name)) as stream,
        ):
            return bytes(stream.read())

    def open(self, name: str) -> Any:
        """What `h5py.File` takes: a path on a disk, a seekable file in a bucket."""
        if self._is_local:
            return self._path(name)
        with self._clear(f"a file {name} that can be read"):
            return self._filesystem.open_input_file(self._path(name))

    def write(self, name: str, data: bytes) -> None:
        """Write one whole file; a reader never sees half of it, even after a power cut.

        The temporary file lies in `.tmp`, which the engine empties at the end of a run. Raises
        `StorageError` if the folder cannot be written to.
        """
        with self._clear(f"to write {name}"):
            temporary = self._path(f"{_TEMPORARY}/{uuid.uuid4().hex}-{name}")
            self._filesystem.create_dir(self._path(_TEMPORARY), recursive=True)
            if self._is_local:
                with open(temporary, "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
            else:
                with self._filesystem.open_output_stream(temporary) as stream:
                    stream.write(data)
            self._filesystem.move(temporary, self._path(name))

    @contextmanager
    def _clear(self, wish: str) -> Iterator[None]:
        """What a file system says becomes a `StorageError` that names the folder."""
        try:
            yield
        except (OSError, pa.ArrowException) as error:
            raise StorageError(expected=f"{wish} in {self.uri}", got=str(error)) from error

    @property
    def _is_local(self) -> bool:
        return isinstance(self._filesystem, pafs.LocalFileSystem)

    @property
    def _filesystem(self) -> pafs.FileSystem:
        return pafs.FileSystem.from_uri(self.uri)[0]

    def _path(self, name: str) -> str:
        root = pafs.FileSystem.from_uri(self.uri)[1]
        return f"{root}/{name}" if name else root


def without_parts(folder: str | os.PathLike[str]) -> Folder:
    """The folder to write new parts into. Raises `StorageError` if it holds a store or HDF5 files."""
    place = Folder.at(folder)
    taken = sorted(name for name in place.sizes() if name.endswith(".h5") or name == "manifest.json")
    if taken:
        raise StorageError(
            expected=f"{place.uri} to hold no activations yet", got=taken[0], hint="choose another folder"
        )
    return place
