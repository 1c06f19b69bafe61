"""`sightline activations verify`: what is wrong with a store is found and named."""

from __future__ import annotations

import hashlib
import json

import h5py
import numpy as np
import pytest

from sightline.__main__ import main
from sightline.activations.manifest import write_manifest
from sightline.activations.parts import hash_ids, texts, write_part
from sightline.activations.sites import Site
from sightline.activations.verify import verify
from sightline.errors import StorageError

SITES = (Site("vision_only"), Site("query_token", 2))


@pytest.fixture
def folder(tmp_path):
    """Three parts of four rows; one row was put aside."""
    parts, ids = [], []
    for number in range(3):
        names = [f"q{number}{row}" for row in range(4)]
        rng = np.random.default_rng(number)
        features = {site.name: rng.standard_normal((4, 3), np.float32) for site in SITES}
        path = tmp_path / f"part-00000{number}.h5"
        parts.append(write_part(path, ids=names, features=features, columns={"label": [0.0, 1.0, None, 1.0]}))
        ids += names
    write_manifest(
        tmp_path, parts, sites=SITES, expected_ids=[*ids, "bad"], quarantined={"bad": "0 bytes"}, meta={}
    )
    return tmp_path


def rewrite(folder, part, change):
    """Change the content of a part and its record, as a writer with a bug would."""
    path = folder / part
    with h5py.File(path, "r+") as file:
        change(file)
        ids = texts(file["ids"]).tolist()
    manifest = json.loads((folder / "manifest.json").read_text())
    record = next(record for record in manifest["parts"] if record["name"] == part)
    data = path.read_bytes()
    record |= {
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "rows": len(ids),
        "id_hash": hash_ids(ids),
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))


def set_id(file, row, value):
    file["ids"][row] = value


def test_a_whole_store(folder):
    report = verify(folder)
    assert report.ok, report.faults
    assert (report.expected, report.present, report.quarantined) == (13, 12, 1)
    (line,) = report.lines()
    assert "ok: " in line
    assert "12 of 13 expected ids exactly once, 1 put aside; 2 sites, 3 parts" in line


def test_a_part_cut_short(folder):
    part = folder / "part-000001.h5"
    part.write_bytes(part.read_bytes()[:-7])
    report = verify(folder)
    assert report.faults[0].startswith("part-000001.h5: cut short: ")
    assert report.faults[1] == "ids: 4 are in no sound part (q10, q11, q12, ...)"
    assert report.present == 8


@pytest.mark.parametrize("place", [0, 0.3, 0.5, 0.99])
def test_one_changed_byte_anywhere(folder, place):
    part = folder / "part-000002.h5"
    data = bytearray(part.read_bytes())
    data[int(place * len(data))] ^= 1
    part.write_bytes(data)
    assert verify(folder).faults[0] == "part-000002.h5: changed since it was written (SHA-256 differs)"


def test_a_missing_part_and_one_too_many(folder):
    (folder / "part-000000.h5").rename(folder / "part-000009.h5")
    faults = verify(folder).faults
    assert "part-000000.h5: missing, with its 4 rows" in faults
    assert "part-000009.h5: not in the manifest" in faults
    assert "ids: 4 are in no sound part (q00, q01, q02, ...)" in faults


def test_nan_and_infinity(folder):
    def change(file):
        file["features/query_token.layer_2"][1, 2] = np.nan
        file["features/query_token.layer_2"][3, 0] = -np.inf

    rewrite(folder, "part-000001.h5", change)
    report = verify(folder)
    assert report.faults == ("part-000001.h5: query_token.layer_2: NaN or infinity in 2 rows (q11, q13)",)


def test_duplicate_ids_within_and_across_parts(folder):
    rewrite(folder, "part-000000.h5", lambda file: set_id(file, 1, "q00"))
    rewrite(folder, "part-000002.h5", lambda file: set_id(file, 3, "q12"))
    report = verify(folder)
    assert "ids: 2 are in no sound part (q01, q23)" in report.faults
    assert "ids: 2 are there more than once (q00, q12)" in report.faults
    assert report.present == 8


def test_ids_nobody_asked_for_and_ids_put_aside(folder):
    rewrite(folder, "part-000000.h5", lambda file: set_id(file, 0, "stranger"))
    rewrite(folder, "part-000001.h5", lambda file: set_id(file, 0, "bad"))
    faults = verify(folder).faults
    assert "ids: 1 were never asked for (stranger)" in faults
    assert "ids: 1 were put aside and yet are there (bad)" in faults


def test_ids_that_are_not_those_of_the_record(folder):
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["parts"][0]["id_hash"] = "0" * 64
    path.write_text(json.dumps(manifest))
    assert verify(folder).faults == ("part-000000.h5: its 4 ids are not the 4 of the manifest",)


def test_a_site_or_column_lost_or_of_another_shape(folder):
    def change(file):
        del file["features/vision_only"], file["columns/label"], file["features/query_token.layer_2"]
        file["features/query_token.layer_2"] = np.ones((4, 5), np.float32)

    rewrite(folder, "part-000000.h5", change)
    faults = verify(folder).faults
    assert faults == (
        "part-000000.h5: it holds other sites than the manifest: vision_only",
        "part-000000.h5: query_token.layer_2 has the shape (4, 5) instead of (4, 3)",
        "part-000000.h5: the column label is missing or has not 4 values",
    )


def test_a_part_that_is_no_part(folder):
    def change(file):
        del file["features"]

    rewrite(folder, "part-000000.h5", change)
    (fault,) = verify(folder).faults
    assert fault.startswith("part-000000.h5: expected a readable part")


def test_the_list_of_expected_ids_is_proved_too(folder):
    path = folder / "expected.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    faults = verify(folder).faults
    assert faults[0] == "expected.parquet: changed since it was written (SHA-256 differs)"
    path.unlink()
    assert verify(folder).faults[0].startswith("expected.parquet: ")


def test_the_command(folder, capsys):
    assert main(["activations", "verify", str(folder)]) == 0
    assert "12 of 13 expected ids exactly once" in capsys.readouterr().out
    (folder / "part-000001.h5").unlink()
    assert main(["activations", "verify", str(folder)]) == 1
    out = capsys.readouterr().out
    assert out.startswith("fault: part-000001.h5: missing, with its 4 rows\n")
    assert "2 faults: " in out
    assert main(["activations", "verify", str(folder / "nowhere")]) == 1
    assert "StorageError" in capsys.readouterr().err


def test_the_commands_for_halps_layout(folder, tmp_path, capsys):
    assert main(["activations", "export-halp", str(folder), str(tmp_path / "halp")]) == 0
    assert "12 rows in 1 file" in capsys.readouterr().out
    halp, again = str(tmp_path / "halp"), str(tmp_path / "again")
    assert main(["activations", "import-halp", halp, again, "--labels", f"{halp}/labels.csv"]) == 0
    assert "12 rows at 2 sites" in capsys.readouterr().out
    report = verify(again)
    assert report.ok
    assert report.present == 12
    assert main(["activations", "import-halp", halp, again]) == 1
    assert "to hold no activations yet" in capsys.readouterr().err


def test_a_folder_that_is_no_store(tmp_path):
    with pytest.raises(StorageError, match=r"no manifest\.json"):
        verify(tmp_path)
