"""The store: exact values, partial reads, and errors that say what is wrong."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys

import h5py
import numpy as np
import pytest

from sightline.activations.folder import Folder
from sightline.activations.manifest import write_manifest
from sightline.activations.parts import nonfinite_rows, write_part
from sightline.activations.precision import BFLOAT16
from sightline.activations.sites import Site, sites_at
from sightline.activations.store import ActivationStore
from sightline.errors import ConfigError, DataError, StorageError

SITES = (Site("vision_only"), *sites_at(("query_token",), (0, 5)))
WIDTHS = {"vision_only": 3, "query_token.layer_0": 5, "query_token.layer_5": 5}
SIZES = (4, 0, 7, 1)


def bf16(values: np.ndarray) -> np.ndarray:
    """The same array, cut down to bfloat16 numbers."""
    return (values.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)


def matrices(rows: int, seed: int = 0) -> dict[str, np.ndarray]:
    """fp32 at one site, bf16 numbers at another, a mix of both kinds of part at the third."""
    rng = np.random.default_rng(seed)
    found = {name: rng.standard_normal((rows, width), np.float32) for name, width in WIDTHS.items()}
    found["query_token.layer_0"] = bf16(found["query_token.layer_0"])
    if seed % 2:
        found["query_token.layer_5"] = bf16(found["query_token.layer_5"])
    return found


def build(folder, sizes=SIZES):
    """A store of parts of these sizes, and the values it must give back."""
    parts, blocks, ids = [], [], []
    for number, rows in enumerate(sizes):
        names = [f"im{number}/q{row}" for row in range(rows)]
        blocks.append(matrices(rows, number))
        columns = {
            "question": [f"Ist da ein Hund? {name} é" for name in names],
            "label": [None if row == 0 else float(row % 2) for row in range(rows)],
            "note": [None] * rows if number < 2 else [f"note {row}" for row in range(rows)],
            "tokens": np.arange(rows),
            "finished": [row % 2 == 0 for row in range(rows)],
        }
        path = folder / f"part-{number:06d}.h5"
        parts.append(
            write_part(path, ids=names, features=blocks[-1], columns=columns, attributes={"model": "m"})
        )
        ids += names
    write_manifest(folder, parts, sites=SITES, expected_ids=ids, meta={"model": "m", "layers": [0, 5]})
    values = {name: np.concatenate([block[name] for block in blocks]) for name in WIDTHS}
    return ActivationStore.open(folder), values, ids


def test_every_bit_comes_back(tmp_path):
    store, values, ids = build(tmp_path)
    assert len(store) == sum(SIZES)
    assert store.ids.tolist() == ids
    assert store.sites == SITES
    assert store.widths == WIDTHS
    assert store.meta == {"model": "m", "layers": [0, 5]}
    for site in SITES:
        found = store.features(site)
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found.view(np.uint32), values[site.name].view(np.uint32))


def test_special_numbers_come_back(tmp_path):
    """Subnormals, the largest floats, minus zero: as float32 and as bfloat16."""
    exact = np.array([[1e-45, 3.4e38, -0.0, 1 / 3]], np.float32)
    for number, row in enumerate((exact, bf16(exact))):
        folder = tmp_path / str(number)
        part = write_part(folder / "p.h5", ids=["a"], features={"query_token.layer_0": row}, columns={})
        write_manifest(folder, [part], sites=[Site("query_token", 0)], expected_ids=["a"], meta={})
        found = ActivationStore.open(folder).features("query_token.layer_0")
        np.testing.assert_array_equal(found.view(np.uint32), row.view(np.uint32))


def test_bfloat16_takes_two_bytes_and_any_reader_understands_it(tmp_path):
    _, values, _ = build(tmp_path)
    with h5py.File(tmp_path / "part-000000.h5") as file:
        half, whole = file["features/query_token.layer_0"], file["features/vision_only"]
        assert half.id.get_type().equal(BFLOAT16)
        assert half.id.get_storage_size() == 2 * half.size
        assert whole.id.get_storage_size() == 4 * whole.size
        np.testing.assert_array_equal(half[()], values["query_token.layer_0"][:4])
        assert file["ids"].asstr()[0] == "im0/q0"


ROWS = {
    "slice": slice(2, 9),
    "steps": slice(None, None, 3),
    "one": [5],
    "last": [-1],
    "backwards": np.arange(12)[::-1],
    "shuffled": np.random.default_rng(0).permutation(12),
    "repeated": [3, 3, 0, 11, 3],
    "mask": np.arange(12) % 5 == 0,
    "none": np.array([], int),
    "all": None,
}


@pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS)
def test_some_rows_in_the_order_asked(tmp_path, rows):
    store, values, _ = build(tmp_path)
    for site in SITES:
        expected = values[site.name] if rows is None else values[site.name][rows]
        np.testing.assert_array_equal(store.features(site.name, rows), expected)


def test_far_apart_rows_of_a_large_part(tmp_path):
    store, values, _ = build(tmp_path, sizes=(400,))
    rows = np.array([399, 0, 1, 2, 200, 9, 100])
    np.testing.assert_array_equal(store.features("vision_only", rows), values["vision_only"][rows])


def test_columns(tmp_path):
    store, _, ids = build(tmp_path)
    assert store.columns == ("finished", "label", "note", "question", "tokens")
    assert store.column("question").tolist() == [f"Ist da ein Hund? {name} é" for name in ids]
    label = store.column("label")
    assert label.dtype == np.float64
    np.testing.assert_array_equal(label[:6], [np.nan, 1, 0, 1, np.nan, 1])
    assert store.column("note").tolist()[:6] == ["", "", "", "", "note 0", "note 1"]
    assert store.column("tokens").dtype == np.int64
    assert store.column("finished").dtype == np.bool_


def test_equal_content_is_equal_bytes_in_another_process_too(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; sys.path.insert(0, sys.argv[2])\n"
        "from test_activation_store import build\n"
        "build(Path(sys.argv[1]))"
    )
    build(tmp_path / "a")
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "b"), __file__.rpartition("/")[0]], check=True)
    files = sorted(path.name for path in (tmp_path / "a").iterdir() if path.is_file())
    assert len(files) == len(SIZES) + 2
    for name in files:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


def test_nothing_is_left_beside_the_files(tmp_path):
    build(tmp_path)
    assert not list((tmp_path / ".tmp").iterdir())


def test_a_store_travels_and_opens_by_uri(tmp_path):
    store, values, _ = build(tmp_path)
    again = pickle.loads(pickle.dumps(ActivationStore.open(f"file://{tmp_path}")))
    np.testing.assert_array_equal(again.features("vision_only"), values["vision_only"])
    np.testing.assert_array_equal(again.ids, store.ids)


def test_a_part_behind_a_file_object(tmp_path, monkeypatch):
    """What a bucket gives: a seekable file instead of a path."""
    store, values, _ = build(tmp_path)
    monkeypatch.setattr(Folder, "open", lambda self, name: self._filesystem.open_input_file(self._path(name)))
    for site in SITES:
        np.testing.assert_array_equal(store.features(site, [11, 2]), values[site.name][[11, 2]])
    assert store.column("question")[0].startswith("Ist da")


@pytest.mark.parametrize("change", ["cut", "grown", "gone"])
def test_a_part_of_another_size_is_named_at_opening(tmp_path, change):
    build(tmp_path)
    part = tmp_path / "part-000002.h5"
    data = part.read_bytes()
    part.unlink()
    if change != "gone":
        part.write_bytes(data[: len(data) // 2] if change == "cut" else data + b"x")
    with pytest.raises(StorageError, match=r"in part-000002\.h5 of .*(no such file|cut short or changed)"):
        ActivationStore.open(tmp_path)


def test_a_part_damaged_after_opening_is_a_clear_error(tmp_path):
    store, _, _ = build(tmp_path)
    part = tmp_path / "part-000002.h5"
    part.write_bytes(part.read_bytes()[:1000])
    with pytest.raises(StorageError, match=r"a readable part part-000002\.h5.*cut short"):
        store.features("vision_only")
    np.testing.assert_array_equal(store.features("vision_only", [0]).shape, (1, 3))  # others still open


def test_folders_that_are_no_store(tmp_path):
    with pytest.raises(StorageError, match=r"no manifest\.json there.*jobs/extract\.py"):
        ActivationStore.open(tmp_path / "nowhere")
    for text, message in (
        ("{", "to be JSON"),
        ("[]", "to say format="),
        ('{"format": "sightline-activations", "version": 2}', "version 1 of the format"),
        ('{"format": "sightline-activations", "version": 1}', "a whole manifest.json"),
    ):
        (tmp_path / "manifest.json").write_text(text)
        with pytest.raises(StorageError, match=message):
            ActivationStore.open(tmp_path)


def test_places_that_cannot_be_read_or_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="a folder that can be read in .*/file"):
        ActivationStore.open(tmp_path / "file")
    with pytest.raises(StorageError, match="a folder that can be read in nowhere://bucket"):
        ActivationStore.open("nowhere://bucket")
    with pytest.raises(StorageError, match=r"to write part\.h5 in .*/file"):
        write_part(tmp_path / "file" / "part.h5", **GOOD)


def test_wrong_questions_to_a_store(tmp_path):
    store, _, _ = build(tmp_path)
    with pytest.raises(DataError, match=r"a site among vision_only, .*got 'query_token\.layer_9'"):
        store.features(Site("query_token", 9))
    with pytest.raises(DataError, match="a column among finished, label"):
        store.column("truth")
    with pytest.raises(DataError, match="rows of a store of 12"):
        store.features("vision_only", [12])


GOOD = {
    "ids": ["a", "b"],
    "features": {"vision_only": np.ones((2, 3), np.float32)},
    "columns": {"label": [0, 1]},
}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"ids": ["a", "a"]}, DataError, "'a' 2 times"),
        ({"ids": ["a", ""]}, DataError, "ids of one or more characters"),
        ({"ids": ["a", "b\0"]}, DataError, "without NUL"),
        ({"ids": ["a"]}, DataError, r"vision_only as \[1, D\]"),
        ({"features": {"vision": np.ones((2, 3))}}, ConfigError, "a site"),
        ({"features": {"vision_only": np.ones(2)}}, DataError, r"vision_only as \[2, D\]"),
        ({"features": {"vision_only": np.array([[1.0], [np.nan]])}}, DataError, "vision_only of 'b'"),
        ({"features": {"vision_only": np.array([[np.inf], [1.0]])}}, DataError, "vision_only of 'a'"),
        ({"columns": {"label": [1]}}, DataError, "a value of label for each of 2 ids"),
        ({"columns": {"label": [1, "x"]}}, DataError, "texts or numbers in the column label"),
        ({"columns": {"label": [{}, None]}}, DataError, "got dict"),
    ],
)
def test_bad_parts_are_refused_before_anything_is_written(tmp_path, change, error, message):
    with pytest.raises(error, match=message):
        write_part(tmp_path / "part.h5", **(GOOD | change))
    assert not list(tmp_path.iterdir())


def test_rows_that_are_not_finite_are_found():
    features = {"a": np.ones((4, 2)), "b": np.ones((4, 1))}
    features["a"][2, 1] = np.nan
    features["b"][:3:2] = np.inf
    assert nonfinite_rows(features) == {0: "b", 2: "a"}


def test_parts_that_do_not_agree_make_no_manifest(tmp_path):
    one = write_part(tmp_path / "1.h5", **GOOD)
    ids = {"ids": ["c", "d"]}
    site = [Site("vision_only")]
    wide = {"vision_only": np.ones((2, 4), np.float32)}
    two = write_part(tmp_path / "2.h5", **(GOOD | ids | {"features": wide}))
    with pytest.raises(DataError, match=r"as wide as in 1\.h5"):
        write_manifest(tmp_path, [one, two], sites=site, expected_ids="abcd", meta={})
    two = write_part(tmp_path / "2.h5", **(GOOD | ids | {"columns": {}}))
    with pytest.raises(DataError, match="the columns label"):
        write_manifest(tmp_path, [one, two], sites=site, expected_ids="abcd", meta={})
    two = write_part(tmp_path / "2.h5", **(GOOD | ids | {"columns": {"label": ["x", "y"]}}))
    with pytest.raises(DataError, match="texts or numbers in the column label"):
        write_manifest(tmp_path, [one, two], sites=site, expected_ids="abcd", meta={})
    two = write_part(tmp_path / "2.h5", **(GOOD | ids))
    for expected, message in (("abc", "to make up the 3 expected"), ("abca", "'a' more than once")):
        with pytest.raises(DataError, match=message):
            write_manifest(tmp_path, [one, two], sites=site, expected_ids=expected, meta={})
    with pytest.raises(DataError, match="got 'x'"):
        write_manifest(tmp_path, [one], sites=site, expected_ids="abc", meta={}, quarantined={"x": "bad"})
    with pytest.raises(DataError, match=r"hold vision_only, query_token\.layer_0"):
        write_manifest(tmp_path, [one], sites=[*site, Site("query_token", 0)], expected_ids="ab", meta={})
    assert not (tmp_path / "manifest.json").exists()


def test_a_run_in_which_every_row_failed_is_an_empty_store(tmp_path):
    part = write_part(tmp_path / "p.h5", ids=[], features={}, columns={})
    sites = [Site("vision_only")]
    write_manifest(tmp_path, [part], sites=sites, expected_ids=["a"], meta={}, quarantined={"a": "bad image"})
    store = ActivationStore.open(tmp_path)
    assert len(store) == 0
    assert store.features("vision_only").shape == (0, 0)
    assert store.ids.shape == (0,)


def test_numbers_of_both_kinds_in_a_column_become_floats(tmp_path):
    one = write_part(tmp_path / "1.h5", **GOOD)
    two = write_part(tmp_path / "2.h5", **(GOOD | {"ids": ["c", "d"], "columns": {"label": [None, 0.5]}}))
    write_manifest(tmp_path, [one, two], sites=[Site("vision_only")], expected_ids="abcd", meta={})
    np.testing.assert_array_equal(ActivationStore.open(tmp_path).column("label"), [0, 1, np.nan, 0.5])
    assert json.loads((tmp_path / "manifest.json").read_text())["columns"] == {"label": "float64"}


def test_texts_that_hdf5_cannot_hold_are_mended(tmp_path):
    columns = {"answer": ["a\0b", "lone \ud800"]}
    part = write_part(tmp_path / "1.h5", **(GOOD | {"columns": columns}))
    write_manifest(tmp_path, [part], sites=[Site("vision_only")], expected_ids="ab", meta={})
    assert ActivationStore.open(tmp_path).column("answer").tolist() == ["a�b", "lone ?"]
