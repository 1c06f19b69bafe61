"""Images, read safely: known formats only, sizes checked before decoding, clear errors.

Takes a local path, a `file://` URI, a byte range of a local tar
(`tar:///a/b.tar?offset=512&size=90`) or the URI of a storage system (s3, gs, hdfs, abfs by
pyarrow, anything else by fsspec). It never fetches `http(s)://`: a data set's rows must not
decide what a worker downloads.
"""

from __future__ import annotations

import hashlib
import io
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import IO
from urllib.parse import parse_qs, unquote, urlsplit

from PIL import Image, ImageOps

from sightline.errors import ImageError

FORMATS = ("PNG", "JPEG", "WEBP")
"""Decoders that may be used; Pillow knows sixty more, each a way in for a crafted file."""
MAX_PIXELS = 40_000_000
"""Width times height that is still decoded: 120 MB as RGB."""
MAX_BYTES = 64 << 20
"""Largest file that is read."""
_ARROW_SCHEMES = ("s3", "gs", "gcs", "hdfs", "viewfs", "abfs", "abfss")


def load_image(
    uri: str | Path, *, max_pixels: int = MAX_PIXELS, formats: Sequence[str] = FORMATS
) -> Image.Image:
    """The image as RGB, upright (its EXIF rotation applied).

    Raises ImageError, naming the URI, when it is missing, corrupt, of another format, or
    larger than `max_pixels`; the size is read from the header, before anything is decoded.
    """
    return decode_image(read_bytes(uri), str(uri), max_pixels=max_pixels, formats=formats)


def decode_image(
    data: bytes, uri: str, *, max_pixels: int = MAX_PIXELS, formats: Sequence[str] = FORMATS
) -> Image.Image:
    """As `load_image`, of a file's bytes; `uri` is for the errors."""
    try:
        image = Image.open(io.BytesIO(data), formats=list(formats))
        width, height = image.size
        if width * height > max_pixels:
            raise ImageError(
                expected=f"{uri} to have at most {max_pixels} pixels",
                got=f"{width} x {height}",
                hint="make it smaller, or raise max_pixels",
            )
        return ImageOps.exif_transpose(image).convert("RGB")
    except Image.UnidentifiedImageError as error:
        raise ImageError(
            expected=f"{uri} to be an image ({', '.join(formats)})",
            got=f"{len(data)} bytes of something else",
            hint="check or convert the file",
        ) from error
    except Image.DecompressionBombError as error:
        raise ImageError(expected=f"{uri} to have at most {max_pixels} pixels", got=str(error)) from error
    except (OSError, SyntaxError, ValueError, EOFError, struct.error) as error:
        raise ImageError(
            expected=f"{uri} to be a whole image", got=f"a damaged one ({error})", hint="fetch it again"
        ) from error


def sha256_of(uri: str | Path) -> str:
    """Hex SHA-256 of the file's bytes. Raises ImageError when it cannot be read."""
    return hashlib.sha256(read_bytes(uri)).hexdigest()


def read_bytes(uri: str | Path) -> bytes:
    """A file's bytes, MAX_BYTES at most. Raises ImageError when it cannot be read or is larger."""
    uri = str(uri)
    try:
        with _open(uri) as file:
            data = file.read(MAX_BYTES + 1)
    except (OSError, ImportError, ValueError) as error:
        raise ImageError(
            expected=f"to read {uri}",
            got=f"{type(error).__name__}: {error}",
            hint="check the path and its rights",
        ) from error
    if len(data) > MAX_BYTES:
        raise ImageError(expected=f"{uri} to have at most {MAX_BYTES} bytes", got="more")
    return data


def _open(uri: str) -> IO[bytes]:
    parts = urlsplit(uri)
    scheme = parts.scheme.lower()
    if "://" not in uri:
        return Path(uri).expanduser().open("rb")
    if scheme == "file":
        return Path(unquote(parts.path)).open("rb")
    if scheme == "tar":
        return _slice(unquote(parts.path), parse_qs(parts.query))
    if scheme in ("http", "https"):
        raise ImageError(
            expected="a path or a storage URI", got=uri, hint="download the images first; rows do not fetch"
        )
    if scheme in _ARROW_SCHEMES:
        from pyarrow import fs

        filesystem, path = fs.FileSystem.from_uri(uri)
        return filesystem.open_input_stream(path)
    import fsspec

    return fsspec.open(uri, "rb").open()


def _slice(path: str, query: dict[str, list[str]]) -> IO[bytes]:
    """`size` bytes of a local file from `offset` on."""
    if set(query) != {"offset", "size"}:
        raise ValueError("a tar URI needs ?offset=...&size=...")
    with Path(path).open("rb") as file:
        file.seek(int(query["offset"][0]))
        return io.BytesIO(file.read(min(int(query["size"][0]), MAX_BYTES + 1)))
