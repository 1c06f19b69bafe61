"""Datasets read from files: absolute image paths, and errors that name the row."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sightline.data.examples import check_images, read_jsonl, read_parquet
from sightline.errors import DataError
from sightline.records import Example

ROW = {"example_id": "e1", "image_uri": "images/a.png", "question": "Is there a dog?", "kind": "yes_no"}


def jsonl(tmp_path, *rows):
    path = tmp_path / "data.jsonl"
    path.write_text("\n".join(r if isinstance(r, str) else json.dumps(r) for r in rows) + "\n")
    return path


def test_natural_json_and_own_rows_read_alike(tmp_path):
    row = {**ROW, "objects": ["dog"], "meta": {"a": 1}, "answer": "Yes."}
    (natural,) = read_jsonl(jsonl(tmp_path, row))
    assert natural.image_uri == str(tmp_path / "images/a.png")
    assert (natural.image_id, natural.objects, natural.meta) == ("images/a.png", ("dog",), {"a": 1})
    assert read_jsonl(jsonl(tmp_path, natural.to_row())) == [natural]


def test_parquet_reads_as_jsonl(tmp_path):
    examples = [Example(f"e{i}", "a", "/x/a.png", "q", "open", objects=("dog",)) for i in range(3)]
    (tmp_path / "parts").mkdir()
    for i, example in enumerate(examples):
        pq.write_table(pa.Table.from_pylist([example.to_row()]), tmp_path / "parts" / f"{i}.parquet")
    assert read_parquet(tmp_path / "parts") == examples
    assert read_parquet(tmp_path / "parts" / "1.parquet") == examples[1:2]
    assert read_parquet(tmp_path / "parts", limit=2) == examples[:2]


def test_image_root_and_uris(tmp_path):
    rows = [{**ROW, "image_uri": uri, "example_id": uri} for uri in ("a.png", "/b/c.png", "s3://d/e.png")]
    found = [e.image_uri for e in read_jsonl(jsonl(tmp_path, *rows), image_root="/root/images")]
    assert found == ["/root/images/a.png", "/b/c.png", "s3://d/e.png"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "at least one example"),
        ([ROW, "{half"], "row 2 of"),
        ([["a list"]], "got list"),
        ([ROW, {**ROW}], r"row 2 of .*'e1' again \(first in row 1\)"),
        ([{**ROW, "question": ""}], "none for question"),
        ([{**ROW, "colour": "red"}], "got colour. Put what else"),
        ([{**ROW, "kind": "essay"}], "a kind among .*'essay'"),
        ([{**ROW, "objects": "dog"}], "`objects` a list"),
        ([{**ROW, "answer": 3}], "text in `answer`"),
    ],
)
def test_what_is_wrong_is_named_with_its_row(tmp_path, rows, message):
    with pytest.raises(DataError, match=message):
        read_jsonl(jsonl(tmp_path, *rows))


def test_missing_and_broken_files(tmp_path):
    with pytest.raises(DataError, match="a dataset file at"):
        read_jsonl(tmp_path / "none.jsonl")
    (tmp_path / "x.parquet").write_bytes(b"no parquet")
    with pytest.raises(DataError, match="a parquet file at"):
        read_parquet(tmp_path / "x.parquet")


def test_missing_images_cost_their_rows_unless_all_are_missing(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    rows = [{**ROW, "example_id": u, "image_uri": u} for u in ("a.png", "b.png")]
    examples = read_jsonl(jsonl(tmp_path, *rows))
    assert check_images(examples) == examples[1:]
    with pytest.raises(DataError, match=r"image_root"):
        check_images(examples[1:])
