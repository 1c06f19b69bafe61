"""Reading images: what is refused, and that it is refused before it costs anything."""

from __future__ import annotations

import hashlib
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sightline.data import images
from sightline.data.images import load_image, sha256_of
from sightline.errors import ImageError


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "a picture.png"
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def test_a_path_and_its_uri_give_the_same_rgb_image(picture: Path):
    by_path, by_uri = load_image(str(picture)), load_image(picture.as_uri())
    assert by_path.mode == "RGB"
    assert by_path.size == (30, 20)
    assert by_path.tobytes() == by_uri.tobytes()
    assert sha256_of(picture.as_uri()) == hashlib.sha256(picture.read_bytes()).hexdigest()


def test_other_modes_become_rgb(tmp_path: Path):
    for mode in ("L", "RGBA", "P", "1"):
        path = tmp_path / f"{mode}.png"
        Image.new(mode, (4, 4)).save(path)
        assert load_image(path).mode == "RGB"


def test_exif_rotation_is_applied(tmp_path: Path):
    image, exif = Image.new("RGB", (30, 20)), Image.Exif()
    exif[0x0112] = 6  # rotated by 90 degrees
    image.save(tmp_path / "turned.jpg", exif=exif)
    assert load_image(tmp_path / "turned.jpg").size == (20, 30)


def test_a_storage_uri_is_read_through_fsspec(picture: Path):
    import fsspec

    with fsspec.open("memory://folder/picture.png", "wb") as file:
        file.write(picture.read_bytes())
    assert load_image("memory://folder/picture.png").tobytes() == load_image(picture).tobytes()


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(ImageError, match=r"nowhere\.png"):
        load_image(tmp_path / "nowhere.png")
    with pytest.raises(ImageError, match=r"nowhere\.png"):
        sha256_of(tmp_path / "nowhere.png")


@pytest.mark.parametrize("cut", [0, 10, 200])
def test_a_truncated_file_is_refused(picture: Path, cut: int):
    picture.write_bytes(picture.read_bytes()[:cut])
    with pytest.raises(ImageError, match=r"picture\.png"):
        load_image(picture)


def test_damaged_bytes_are_refused(picture: Path):
    data = bytearray(picture.read_bytes())
    data[60:90] = bytes(30)
    picture.write_bytes(bytes(data))
    with pytest.raises(ImageError, match="picture"):
        load_image(picture)


def test_another_format_is_refused_whatever_its_name(tmp_path: Path):
    path = tmp_path / "picture.png"
    Image.new("RGB", (4, 4)).save(path, format="BMP")
    with pytest.raises(ImageError, match="PNG, JPEG, WEBP"):
        load_image(path)
    assert load_image(path, formats=("BMP",)).size == (4, 4)


def test_a_bomb_is_refused_by_its_header(tmp_path: Path):
    """A header that claims 20,000 x 20,000 pixels; the file itself is a few bytes."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 20_000, 20_000, 1, 0, 0, 0, 0)
    path = tmp_path / "bomb.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b""))
    with pytest.raises(ImageError, match="pixels"):
        load_image(path)


def test_max_pixels_counts(picture: Path):
    with pytest.raises(ImageError, match="30 x 20"):
        load_image(picture, max_pixels=599)
    assert load_image(picture, max_pixels=600).size == (30, 20)


def test_a_huge_file_is_refused(picture: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(images, "MAX_BYTES", 100)
    with pytest.raises(ImageError, match="100 bytes"):
        load_image(picture)


def test_rows_do_not_fetch():
    with pytest.raises(ImageError, match="Download"):
        load_image("https://example.com/picture.png")


def test_a_folder_is_refused(tmp_path: Path):
    with pytest.raises(ImageError):
        load_image(tmp_path)
