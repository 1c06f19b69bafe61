"""HALP's layout: written as HALP writes it, read back, and what its numbers mean."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from sightline.activations import halp_export
from sightline.activations.halp import PART_ROWS, Convention, group_name, halp_sites, row_id
from sightline.activations.halp_export import export_halp
from sightline.activations.halp_import import import_halp, read_labels
from sightline.activations.manifest import read_expected, write_manifest
from sightline.activations.parts import write_part
from sightline.activations.sites import EMBEDDING, Site, sites_at
from sightline.activations.store import ActivationStore
from sightline.activations.verify import verify
from sightline.errors import DataError, StorageError

LAYERS = (0, 6, 12, 18, 23)


def write_as_halp_does(path, ids, *, seed=0, change=None, width=8):
    """The statements of `_save_checkpoint` in HALP's run_smol_extraction.py, on small vectors."""
    rng = np.random.default_rng(seed)
    data = {}
    for name in ids:
        data[name] = {
            "vision_only_representation": rng.standard_normal(6, dtype=np.float32),
            **{
                kind: {f"layer_{i}": rng.standard_normal(width, dtype=np.float32) for i in LAYERS}
                for kind in ("vision_token_representation", "query_token_representation")
            },
        }
    if change:
        change(data)
    with h5py.File(path, "w") as file:
        file.attrs["model_name"] = "HuggingFaceTB/SmolVLM2-2.2B-Instruct"
        file.attrs["model_type"] = "smolvlm2-2.2b-multimodal"
        file.attrs["device"] = "cuda"
        file.attrs["dtype"] = "float32"
        file.attrs["created_at"] = "2025-10-01T12:00:00"
        file.attrs["num_samples"] = len(data)
        for name, row in data.items():
            group = file.create_group(str(name))
            for key in ("image_id", "question", "ground_truth_answer"):
                group.create_dataset(key, data=f"{key} of {name}", dtype=h5py.string_dtype())
            if row["vision_only_representation"] is not None:
                group.create_dataset(
                    "vision_only_representation", data=row["vision_only_representation"], compression="gzip"
                )
            for kind in ("vision_token_representation", "query_token_representation"):
                inner = group.create_group(kind)
                for layer, vector in row[kind].items():
                    inner.create_dataset(layer, data=vector, compression="gzip")
            group.create_dataset("answer", data=f"answer of {name} é", dtype=h5py.string_dtype())
    return data


def our_store(folder, rows=3, sites=None) -> ActivationStore:
    sites = sites or (Site("vision_only"), *sites_at(("vision_token", "query_token"), (EMBEDDING, 0, 11)))
    rng = np.random.default_rng(1)
    ids = [f"00/{i}%é" for i in range(rows)]
    features = {site.name: rng.standard_normal((rows, 4 + (site.layer or 0)), np.float32) for site in sites}
    columns = {
        "image_id": [f"im{i}" for i in range(rows)],
        "question": ['Is there "a, dog"?'] * rows,
        "truth": ["Yes"] * rows,
        "answer": ["No."] * rows,
        "label": [float(i % 2) if i else None for i in range(rows)],
    }
    part = write_part(folder / "part-000000.h5", ids=ids, features=features, columns=columns)
    meta = {"model": {"source": "org/Some-VLM", "device": "cpu"}}
    write_manifest(folder, [part], sites=sites, expected_ids=ids, meta=meta)
    return ActivationStore.open(folder)


def test_halps_own_files_are_read_by_the_stated_convention(tmp_path):
    first = write_as_halp_does(tmp_path / "smolvlm_2.2b_embeddings_part_001.h5", ["q10", "q2", "q1"])
    second = write_as_halp_does(tmp_path / "smolvlm_2.2b_embeddings_part_002.h5", ["q3"], seed=1)
    store = import_halp(tmp_path, tmp_path / "store", labels={"q2": 1.0, "q3": 0.0})
    assert verify(tmp_path / "store").ok
    assert set(store.sites) == set(halp_sites(24))
    assert store.ids.tolist() == ["q1", "q10", "q2", "q3"]  # HDF5 keeps names sorted
    everything = first | second
    for i in LAYERS:  # hidden_states[i] is the output of block i-1
        for ours, theirs in (("vision_token", "vision_token"), ("prompt_token", "query_token")):
            expected = [everything[name][f"{theirs}_representation"][f"layer_{i}"] for name in store.ids]
            np.testing.assert_array_equal(store.features(Site(ours, i - 1)), expected)
    expected = [everything[name]["vision_only_representation"] for name in store.ids]
    np.testing.assert_array_equal(store.features("vision_only"), expected)
    assert store.column("truth")[0] == "ground_truth_answer of q1"
    assert store.column("answer")[3] == "answer of q3 é"
    np.testing.assert_array_equal(store.column("label"), [np.nan, np.nan, 1.0, 0.0])
    assert store.meta["model"]["source"] == "HuggingFaceTB/SmolVLM2-2.2B-Instruct"
    assert store.meta["halp"] == {"layers": "hidden_states", "query_token": "prompt_token"}


def test_files_of_hooked_models_keep_their_layer_numbers(tmp_path):
    write_as_halp_does(tmp_path / "gemma.h5", ["q1"])
    store = import_halp(tmp_path / "gemma.h5", tmp_path / "store", layers="blocks")
    assert {site.layer for site in store.sites} == {None, *LAYERS}


def test_round_trip_through_halps_layout(tmp_path):
    store = our_store(tmp_path / "store")
    exported = export_halp(store, tmp_path / "halp")
    assert exported.files == ("some-vlm_embeddings_part_001.h5",)
    assert exported.left_out == ()
    labels = read_labels(tmp_path / "halp" / "labels.csv")
    again = import_halp(tmp_path / "halp", tmp_path / "again", labels=labels)
    order = [store.ids.tolist().index(name) for name in again.ids]
    assert set(again.sites) == set(store.sites)
    for site in store.sites:
        np.testing.assert_array_equal(again.features(site), store.features(site, order))
    for name in ("image_id", "question", "truth", "answer", "label"):
        np.testing.assert_array_equal(again.column(name), store.column(name)[order])


def test_an_exported_file_is_what_halps_readers_expect(tmp_path):
    store = our_store(tmp_path / "store")
    export_halp(store, tmp_path, name="smolvlm_2.2b")
    with h5py.File(tmp_path / "smolvlm_2.2b_embeddings_part_001.h5") as file:
        assert file.attrs["model_name"] == "org/Some-VLM"
        assert file.attrs["num_samples"] == len(file.keys()) == 3
        assert {"model_type", "device", "dtype", "created_at"} <= set(file.attrs)
        group = file[group_name(store.ids[0])]
        assert set(group) == {
            *("image_id", "question", "ground_truth_answer", "answer"),
            *("vision_only_representation", "vision_token_representation", "query_token_representation"),
        }
        assert group["question"][()].decode() == 'Is there "a, dog"?'
        assert group["question"].shape == ()
        # The embedding is their layer_0, our block 11 their layer_12.
        assert set(group["query_token_representation"]) == {"layer_0", "layer_1", "layer_12"}
        vector = group["query_token_representation"]["layer_12"]
        assert vector.compression == "gzip"
        assert vector.dtype == np.float32
        np.testing.assert_array_equal(vector[:], store.features("query_token.layer_11")[0])


def test_a_thousand_questions_a_file(tmp_path, monkeypatch):
    assert PART_ROWS == 1000
    monkeypatch.setattr(halp_export, "PART_ROWS", 2)
    store = our_store(tmp_path / "store", rows=5)
    files = [f"some-vlm_embeddings_part_00{number}.h5" for number in (1, 2, 3)]
    assert export_halp(store, tmp_path / "halp").files == tuple(files)
    with h5py.File(tmp_path / "halp" / files[2]) as file:
        assert list(file) == [group_name(store.ids[4])]


def test_sites_without_a_place_are_named_or_refused(tmp_path):
    sites = (*sites_at(("query_token", "prompt_token", "answer_mean"), (1,)),)
    store = our_store(tmp_path / "store", sites=sites)
    exported = export_halp(store, tmp_path / "halp", query="prompt_token")
    assert exported.left_out == ("query_token.layer_1", "answer_mean.layer_1")
    assert import_halp(tmp_path / "halp", tmp_path / "again").sites == (Site("prompt_token", 1),)
    only = our_store(tmp_path / "only", sites=(Site("answer_mean", 1),))
    with pytest.raises(DataError, match="a site that HALP's layout knows"):
        export_halp(only, tmp_path / "none")
    assert Convention("blocks").path(Site("vision_token", EMBEDDING)) is None


def test_questions_that_cannot_be_used_are_put_aside_with_their_reason(tmp_path):
    def change(data):
        data["none"]["vision_only_representation"] = None
        data["short"]["query_token_representation"]["layer_6"] = np.ones(3, np.float32)
        data["nan"]["vision_token_representation"]["layer_0"][2] = np.nan

    write_as_halp_does(tmp_path / "a.h5", ["good", "nan", "none", "ok", "short"], change=change)
    store = import_halp(tmp_path / "a.h5", tmp_path / "store")
    assert store.ids.tolist() == ["good", "ok"]
    assert verify(tmp_path / "store").quarantined == 3
    reasons = read_expected(store.folder)
    assert reasons["nan"] == "NaN or infinity in vision_token_representation/layer_0"
    assert reasons["none"] == "no vision_only_representation"
    assert reasons["short"].startswith("query_token_representation/layer_6 has the shape (3,)")


def test_bad_sources_are_refused(tmp_path):
    with pytest.raises(StorageError, match="HALP's .h5 files"):
        import_halp(tmp_path, tmp_path / "store")
    write_as_halp_does(tmp_path / "a.h5", ["q1"])
    write_as_halp_does(tmp_path / "b.h5", ["q1", "q2"])
    with pytest.raises(DataError, match="'q1' in two of them"):
        import_halp(tmp_path, tmp_path / "store")
    (tmp_path / "b.h5").write_bytes((tmp_path / "a.h5").read_bytes()[:-100])
    with pytest.raises(StorageError, match="a readable part b.h5"):
        import_halp(tmp_path, tmp_path / "store")
    import_halp([tmp_path / "a.h5"], tmp_path / "store")
    with pytest.raises(StorageError, match="to hold no activations yet"):
        import_halp([tmp_path / "a.h5"], tmp_path / "store")
    with pytest.raises(StorageError, match="to hold no activations yet"):
        export_halp(ActivationStore.open(tmp_path / "store"), tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("question_id\nq1\n", "a column is_hallucinating_manual"),
        ("question_id,is_hallucinating_manual\nq1,True\nq1,False\n", "'q1' again"),
        ("question_id,is_hallucinating_manual\nq1,maybe\n", "true or false"),
    ],
)
def test_bad_labels_are_refused(tmp_path, text, message):
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        read_labels(tmp_path / "labels.csv")


def test_labels_in_every_spelling(tmp_path):
    (tmp_path / "l.csv").write_text("question_id,is_hallucinating_manual\na,True\nb,0\nc,\nd, yes\n")
    assert read_labels(tmp_path / "l.csv") == {"a": 1.0, "b": 0.0, "d": 1.0}


@pytest.mark.parametrize("name", ["a/b", "50%", "%2F", ".", "..", "plain", "é/%/."])
def test_ids_become_group_names_and_come_back(name):
    encoded = group_name(name)
    assert "/" not in encoded
    assert encoded.strip(".")
    assert row_id(encoded, {"sightline_ids_percent_encoded": True}) == name
    assert row_id(encoded, {}) == encoded
