"""Preference pairs are checked as a whole before any work."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from sightline.data.pairs import read_pairs, row_hash
from sightline.errors import ImageError, PairError

ROW = {"pair_id": "a", "image_uri": "dog.png", "question": "A dog?", "chosen": "Yes.", "rejected": "No."}


def write(folder, rows):
    Image.new("RGB", (4, 4)).save(folder / "dog.png")
    pq.write_table(pa.Table.from_pylist(rows), folder / "pairs.parquet")
    return folder / "pairs.parquet"


def test_missing_fields_get_defaults_and_paths_become_absolute(tmp_path):
    (pair,) = read_pairs(write(tmp_path, [ROW]))
    assert pair.image_uri == str(tmp_path / "dog.png")
    assert (pair.context, pair.weight, pair.condition) == ("", 1.0, "dataset")
    assert read_pairs(tmp_path) == [pair]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rejected": None}, "a chosen and a rejected"),
        ({"chosen": "  "}, "a chosen and a rejected"),
        ({"rejected": "Yes. "}, "two different answers"),
    ],
)
def test_pairs_without_two_different_answers_are_refused(tmp_path, change, message):
    with pytest.raises(PairError, match=message):
        read_pairs(write(tmp_path, [ROW | {"pair_id": "b"}, ROW | change]))


def test_no_pairs_and_no_file_are_refused(tmp_path):
    empty = pa.Table.from_pylist([ROW]).slice(0, 0)
    pq.write_table(empty, tmp_path / "empty.parquet")
    with pytest.raises(PairError, match="at least one"):
        read_pairs(tmp_path / "empty.parquet")
    with pytest.raises(PairError, match="nothing at"):
        read_pairs(tmp_path / "absent")


def test_a_missing_column_is_named(tmp_path):
    path = write(tmp_path, [{k: v for k, v in ROW.items() if k != "rejected"}])
    with pytest.raises(PairError, match="rejected"):
        read_pairs(path)


def test_a_missing_image_is_named(tmp_path):
    with pytest.raises(ImageError, match=r"cat\.png"):
        read_pairs(write(tmp_path, [ROW, ROW | {"pair_id": "b", "image_uri": "cat.png"}]))


def test_ids_are_unique(tmp_path):
    with pytest.raises(PairError, match="unique"):
        read_pairs(write(tmp_path, [ROW, ROW]))


def test_the_row_hash_follows_every_text(tmp_path):
    first, second = read_pairs(write(tmp_path, [ROW, ROW | {"pair_id": "b", "chosen": "Yes, one."}]))
    assert row_hash(first) != row_hash(second)
