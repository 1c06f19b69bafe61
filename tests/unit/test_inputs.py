"""Inputs of other people's making: tables by column, tar shards, POPE, HALP, label files."""

from __future__ import annotations

import csv
import io
import json
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from sightline.config.dataset import (
    CsvDataset,
    HalpDataset,
    JsonlDataset,
    ParquetDataset,
    PopeDataset,
    WebDataset,
    WorldDataset,
)
from sightline.config.extract import ExtractConfig
from sightline.config.loader import parse
from sightline.data.images import load_image
from sightline.data.labels import join_labels, read_labels
from sightline.data.tables import read_table
from sightline.distributed.sources import load_examples
from sightline.errors import ConfigError, DataError, ImageError
from sightline.records import Example

COLUMNS = {"example_id": "qid", "image_uri": "file", "question": "q", "answer": "gt", "label": "wrong"}
ROWS = [
    {"qid": 1, "file": "a.png", "q": "Is there a dog?", "gt": "yes", "wrong": True, "level": 3},
    {"qid": 2, "file": "a.png", "q": "What color is it?", "gt": "Red", "wrong": "0", "level": 1},
    {"qid": 3, "file": "b.png", "q": "How, many?", "gt": "", "wrong": "", "level": 2},
]


def write_csv(path: Path, rows: list[dict]) -> Path:
    with path.open("w", newline="") as out:
        writer = csv.DictWriter(out, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_jsonl(path: Path, rows: list) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    return path


def mapped(kind: str, tmp_path: Path) -> list[Example]:
    if kind == "csv":
        config = CsvDataset(type="csv", path=str(write_csv(tmp_path / "t.csv", ROWS)), columns=COLUMNS)
    elif kind == "jsonl":
        path = write_jsonl(tmp_path / "t.jsonl", ROWS)
        config = JsonlDataset(type="jsonl", path=str(path), columns=COLUMNS)
    else:
        rows = [{**row, "wrong": {True: "true"}.get(row["wrong"], row["wrong"]) or None} for row in ROWS]
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "t.parquet")
        config = ParquetDataset(type="parquet", path=str(tmp_path / "t.parquet"), columns=COLUMNS)
    return load_examples(config, scratch=tmp_path)


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_a_mapped_table_gives_the_same_examples_in_every_form(tmp_path, kind):
    examples = mapped(kind, tmp_path)
    assert [(e.example_id, e.kind, e.answer) for e in examples] == [
        ("1", "yes_no", "yes"),
        ("2", "open", "Red"),
        ("3", "open", ""),
    ]
    assert [e.meta.get("label") for e in examples] == [1.0, 0.0, None]
    assert [int(e.meta["level"]) for e in examples] == [3, 1, 2], "unnamed columns are kept"
    assert {e.image_uri for e in examples} == {str(tmp_path / "a.png"), str(tmp_path / "b.png")}
    assert examples[2].question == "How, many?"


def test_kind_and_source_where_no_column_says(tmp_path):
    path = write_csv(tmp_path / "t.csv", ROWS)
    examples = read_table(path, form="csv", columns=COLUMNS, kind="open", source="mine", limit=2)
    assert [(e.kind, e.source) for e in examples] == [("open", "mine")] * 2


def test_a_table_without_a_mapping_is_examples_and_may_have_labels(tmp_path):
    row = {"example_id": "e", "image_uri": "a.png", "question": "q", "kind": "open", "label": 1}
    (example,) = read_table(write_jsonl(tmp_path / "t.jsonl", [row]), form="jsonl")
    assert example.meta == {"label": 1.0}
    with pytest.raises(DataError, match="got colour"):
        read_table(write_jsonl(tmp_path / "u.jsonl", [{**row, "colour": "red"}]), form="jsonl")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"id": 1, "file": "a", "q": "x"}], "the column qid in .*only id, file, q"),
        ([{**ROWS[0], "wrong": "perhaps"}], "row 1 of .*got 'perhaps'"),
        ([ROWS[0], ROWS[0]], r"row 2 of .*'1' again \(first in row 1\)"),
        ([{**ROWS[0], "q": ""}], "row 1 of .*none for question"),
    ],
)
def test_what_is_wrong_in_a_table_is_named(tmp_path, rows, message):
    with pytest.raises(DataError, match=message):
        read_table(write_csv(tmp_path / "t.csv", rows), form="csv", columns=COLUMNS)


def test_files_that_are_no_tables(tmp_path):
    (tmp_path / "x.csv").write_bytes(b"a,b\n\xff\xfe\x00,1\n")
    with pytest.raises(DataError, match="comma-separated values in UTF-8"):
        read_table(tmp_path / "x.csv", form="csv")
    (tmp_path / "y.csv").write_text("a,b\n1,2,3\n")
    with pytest.raises(DataError, match="2 cells .*got more"):
        read_table(tmp_path / "y.csv", form="csv")
    (tmp_path / "z.jsonl").write_bytes(b"\x89PNG\r\n\xff")
    with pytest.raises(DataError, match="one JSON object a line"):
        read_table(tmp_path / "z.jsonl", form="jsonl")
    with pytest.raises(DataError, match="a dataset file at"):
        read_table(tmp_path / "none.csv", form="csv")


def test_a_column_must_be_a_field():
    with pytest.raises(ConfigError, match=r"dataset.columns.*not picture"):
        parse(ExtractConfig, ["dataset.type=csv", "dataset.path=x.csv", "dataset.columns.picture=file"])


# --- POPE, HALP -----------------------------------------------------------------------------


def test_popes_three_files_have_ids_of_their_own(tmp_path):
    row = {"question_id": 1, "image": "COCO_1.jpg", "text": "Is there a dog in the image?", "label": "no"}
    for name in ("random", "popular"):
        write_jsonl(tmp_path / f"coco_pope_{name}.json", [row, {**row, "question_id": 2, "label": "yes"}])
    config = PopeDataset(type="pope", path=str(tmp_path), image_root="/coco/val2014")
    examples = load_examples(config, scratch=tmp_path)
    assert [e.example_id for e in examples] == [
        f"coco_pope_{name}/{n}" for name in ("popular", "random") for n in (1, 2)
    ]
    assert {e.image_uri for e in examples} == {"/coco/val2014/COCO_1.jpg"}
    assert examples[0].answer == "no"
    assert "label" not in examples[0].meta, "its label is the truth"
    one = PopeDataset(type="pope", path=str(tmp_path / "coco_pope_random.json"), limit=1)
    assert len(load_examples(one, scratch=tmp_path)) == 1
    write_jsonl(tmp_path / "chat.json", [{**row, "label": ["no", "yes"]}])
    with pytest.raises(DataError, match="multi-turn"):
        load_examples(PopeDataset(type="pope", path=str(tmp_path / "chat.json")), scratch=tmp_path)
    write_jsonl(tmp_path / "less.json", [{"question_id": 1, "image": "x"}])
    with pytest.raises(DataError, match="question_id, image, text, label .row 1 of"):
        load_examples(PopeDataset(type="pope", path=str(tmp_path / "less.json")), scratch=tmp_path)


HALP = {
    "question_id": "amber_1",
    "image_id": "AMBER_1",
    "question": "Is there a dog?",
    "ground_truth_answer": "No",
    "model_answer": "Yes, there is.",
    "is_hallucinating_manual": "True",
}


def test_halps_csv_gives_labels_and_finds_images(tmp_path):
    (tmp_path / "AMBER_1.jpg").write_bytes(b"")
    rows = [
        HALP,
        {**HALP, "question_id": "mme_2", "image_id": "x.png", "is_hallucinating_manual": "False"},
        {**HALP, "question_id": "haloquest_3", "ground_truth_answer": "a bus", "is_hallucinating_manual": ""},
    ]
    path = write_csv(tmp_path / "halp.csv", rows)
    examples = load_examples(HalpDataset(type="halp", path=str(path)), scratch=tmp_path)
    assert [e.meta.get("label") for e in examples] == [1.0, 0.0, None]
    assert [e.kind for e in examples] == ["yes_no", "yes_no", "open"]
    assert examples[0].image_uri == str(tmp_path / "AMBER_1.jpg")
    assert examples[0].meta["model_answer"] == "Yes, there is."
    del rows[0]["is_hallucinating_manual"]
    with pytest.raises(DataError, match="the column is_hallucinating_manual"):
        load_examples(
            HalpDataset(type="halp", path=str(write_csv(tmp_path / "b.csv", rows[:1]))), scratch=tmp_path
        )


# --- WebDataset ------------------------------------------------------------------------------


def picture() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 6), (10, 200, 30)).save(buffer, "PNG")
    return buffer.getvalue()


def write_tar(path: Path, members: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def test_tar_shards_are_read_in_place(tmp_path):
    asked = [{"question": "Is there a dog?", "answer": "yes"}, {"question": "How many?", "answer": "2"}]
    for n in range(2):
        members = {
            f"{n}/one.json": json.dumps(asked[0]).encode(),
            f"{n}/one.png": picture(),
            f"{n}/two.png": picture(),
            f"{n}/two.json": json.dumps(asked).encode(),
        }
        write_tar(tmp_path / f"shard {n:03d}.tar", members)
    config = WebDataset(type="webdataset", path=str(tmp_path / "shard {000..001}.tar"), source="wds")
    examples = load_examples(config, scratch=tmp_path)
    assert [e.example_id for e in examples] == [
        f"{n}/{key}" for n in range(2) for key in ("one", "two/0", "two/1")
    ]
    assert [e.kind for e in examples[:3]] == ["yes_no", "yes_no", "open"]
    assert {e.source for e in examples} == {"wds"}
    assert len({e.image_uri for e in examples}) == 4
    assert {load_image(e.image_uri).size for e in examples} == {(8, 6)}
    folder = WebDataset(type="webdataset", path=str(tmp_path), limit=4)
    assert load_examples(folder, scratch=tmp_path)[:3] == [
        Example(**{**vars_of(e), "source": ""}) for e in examples[:3]
    ]


def vars_of(example: Example) -> dict:
    return {name: getattr(example, name) for name in example.__slots__}


def test_broken_tar_shards_are_errors_that_name_them(tmp_path):
    whole = write_tar(tmp_path / "a.tar", {"x.png": picture(), "x.json": b'{"question": "q"}'})
    (tmp_path / "cut.tar").write_bytes(whole.read_bytes()[:700])
    write_tar(tmp_path / "zipped.tar", {"x.png": picture()}, "w:gz")
    write_tar(tmp_path / "bare.tar", {"x.png": picture()})
    write_tar(tmp_path / "text.tar", {"x.png": picture(), "x.json": b"no json"})
    for name, message in {
        "cut": "a whole, uncompressed tar",
        "zipped": "a whole, uncompressed tar",
        "bare": "an image and a json for 'x' .*got no json",
        "text": "with JSON members",
        "gone": "got no gone.tar",
    }.items():
        with pytest.raises(DataError, match=message):
            load_examples(WebDataset(type="webdataset", path=str(tmp_path / f"{name}.tar")), scratch=tmp_path)
    with pytest.raises(ImageError, match="offset"):
        load_image(f"tar://{whole}")


# --- labels, world ---------------------------------------------------------------------------


def examples_of(*ids: str) -> list[Example]:
    return [Example(i, "a", "/a.png", "q", "open", meta={"label": 0.0, "x": 1}) for i in ids]


def test_labels_are_joined_by_id(tmp_path):
    rows = [
        {"question_id": "a", "label": 1},
        {"question_id": "b", "label": ""},
        {"question_id": "z", "label": 0},
    ]
    labels = read_labels(write_csv(tmp_path / "l.csv", rows))
    assert labels == {"a": 1.0, "z": 0.0}
    joined = join_labels(examples_of("a", "b"), labels, "l.csv")
    assert [e.meta for e in joined] == [{"x": 1, "label": 1.0}, {"x": 1}]
    assert read_labels(write_jsonl(tmp_path / "l.jsonl", [{"example_id": "a", "label": False}])) == {"a": 0.0}
    with pytest.raises(DataError, match="of other ids, such as 'a'"):
        join_labels(examples_of("q"), labels, "l.csv")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"question_id": "a", "label": "maybe"}], "row 1 .*'maybe'"),
        ([{"question_id": "a", "label": 1}, {"question_id": "a", "label": 0}], "row 2 .*'a' again"),
        ([{"id": "a", "label": 1}], "question_id or example_id"),
        ([{"question_id": "a", "score": 1}], "a label in one of label"),
    ],
)
def test_bad_labels_are_refused(tmp_path, rows, message):
    with pytest.raises(DataError, match=message):
        read_labels(write_csv(tmp_path / "l.csv", rows))


def test_the_world_can_be_asked_for_some_kinds(tmp_path):
    config = WorldDataset(scenes=2, kinds=("yes_no", "count"))
    assert {e.kind for e in load_examples(config, scratch=tmp_path)} == {"yes_no", "count"}
