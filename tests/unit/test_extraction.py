"""Extraction from examples to a verified store in a plain loop, with the reference VLM and no Ray."""

from __future__ import annotations

import json
import struct
import sys
import threading
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sightline.activations.sites import Site, default_sites
from sightline.activations.store import ActivationStore
from sightline.activations.verify import verify
from sightline.config.dataset import JsonlDataset
from sightline.config.extract import ExtractConfig, ExtractSettings
from sightline.config.loader import parse
from sightline.config.model import ModelConfig
from sightline.config.resources import ResourcesConfig
from sightline.data.ahead import loaded_ahead
from sightline.data.examples import read_jsonl
from sightline.data.images import load_image
from sightline.distributed import extract_worker
from sightline.distributed.extract_worker import ExtractWorker, ExtractWorkerConfig, portions_of
from sightline.distributed.extraction import Extracted, Extraction, plan, sites_of, wants_answers
from sightline.errors import ConfigError, DataError, StorageError
from sightline.models.prompts import Prompt
from sightline.models.vlm import Vlm
from sightline.preference.judges import Verdict
from sightline.records import Example
from sightline.world.dataset import write
from sightline.world.nouns import LEXICON

SETTINGS = ExtractSettings(batch_size=8, shard_rows=10, short_answer_tokens=4, max_new_tokens=8)


def always_wrong(answer: str, example: Example) -> Verdict:
    """A judge."""
    return Verdict(right=False, score=0.0)


def extract(folder: Path, examples: list[Example], labels: Path | None = None, **settings) -> Extracted:
    chosen = SETTINGS.model_copy(update=settings)
    given = None if labels is None else str(labels)
    return Extraction(ModelConfig(), chosen, ResourcesConfig(), str(folder), labels=given, ray=False)(
        examples
    )


@pytest.fixture(scope="module")
def examples(tmp_path_factory) -> list[Example]:
    found = read_jsonl(write(tmp_path_factory.mktemp("world"), split="mine", scenes=4))
    return [e for e in found if e.kind in ("yes_no", "color", "count")]


@pytest.fixture(scope="module")
def vlm() -> Vlm:
    return Vlm.load("world")


@pytest.fixture(scope="module")
def extracted(tmp_path_factory, examples) -> Extracted:
    return extract(tmp_path_factory.mktemp("run"), examples)


def errors(done: Extracted) -> dict[str, str]:
    from sightline.distributed.storage import Storage

    rows = Storage.at(done.folder).read_table("errors.parquet").to_pylist()
    return {row["row_id"]: row["error"] for row in rows}


# --- what is extracted ---------------------------------------------------------------------


def test_a_store_with_every_site_every_row_and_its_label(extracted, examples):
    store = ActivationStore.open(extracted.folder)
    assert store.ids.tolist() == [e.example_id for e in examples]
    assert [s.name for s in store.sites] == [s.name for s in default_sites(5)]
    assert len(store.sites) == 11
    assert set(store.widths.values()) == {128, 192}
    for name in ("image_id", "question", "kind", "source", "sha256"):
        assert store.column(name).tolist() == [getattr(e, name) for e in examples]
    assert store.column("truth").tolist() == [e.answer for e in examples]
    assert set(store.column("judge").tolist()) == {"auto"}
    assert set(store.column("label").tolist()) <= {0.0, 1.0}
    assert np.isfinite(store.column("answer_logprob")).all()
    assert store.meta["model"]["identity"]
    assert verify(extracted.folder).ok
    report = json.loads((Path(extracted.folder).parent / "extract_report.json").read_text())
    labels = report["labels"]
    assert labels["hallucinated"] + labels["right"] == len(examples) == report["rows"]
    assert sum(sum(counts.values()) for counts in labels["by_kind"].values()) == len(examples)


def test_features_answers_and_labels_are_the_models_own(extracted, examples, vlm):
    store = ActivationStore.open(extracted.folder)
    images = {uri: load_image(uri) for uri in {e.image_uri for e in examples}}
    prompts = [Prompt(images[e.image_uri], e.question) for e in examples]
    for name, values_ND in vlm.capture(prompts, store.sites).items():
        np.testing.assert_allclose(store.features(name), values_ND, rtol=1e-4, atol=1e-4)
    texts = vlm.generate_text(prompts, max_new_tokens=4)
    assert store.column("answer").tolist() == texts
    right = [
        t.strip(" .").lower() == e.answer.strip(" .").lower() for t, e in zip(texts, examples, strict=True)
    ]
    assert store.column("label").tolist() == [float(not r) for r in right]


def test_an_image_is_opened_once_for_its_questions_and_ahead_of_the_model(tmp_path, examples, monkeypatch):
    opened: list[tuple[str, str]] = []
    decode = extract_worker.decode_image

    def counted(data, uri, **options):
        opened.append((uri, threading.current_thread().name))
        return decode(data, uri, **options)

    monkeypatch.setattr(extract_worker, "decode_image", counted)
    extract(tmp_path, examples)
    assert sorted(uri for uri, _ in opened) == sorted({e.image_uri for e in examples})
    assert all(name.startswith("ahead") for _, name in opened)


def test_what_is_asked_twice_is_computed_once(examples, vlm, monkeypatch):
    asked: list[str] = []
    capture = Vlm.capture

    def counted(self, prompts, sites, answers=None, **options):
        asked.extend(prompt.question for prompt in prompts)
        return capture(self, prompts, sites, answers, **options)

    monkeypatch.setattr(Vlm, "capture", counted)
    sites = ("query_token.layer_2",)
    worker = ExtractWorker(ExtractWorkerConfig(ModelConfig(), SETTINGS, sites, LEXICON, True, True), vlm)
    one, two = examples[:2]
    rows = [e.to_row() for e in (one, two, replace(one, example_id="again", answer="No."))]
    result = worker({name: np.asarray([r[name] for r in rows], dtype=object) for name in rows[0]})
    assert asked == [one.question, two.question]
    assert (result[sites[0]][0] == result[sites[0]][2]).all()
    assert result["answer"][0] == result["answer"][2]
    assert result["label"][0] != result["label"][2], "each row is judged by its own truth"


def test_batches_and_shards_do_not_change_the_values(tmp_path, extracted, examples):
    other = extract(tmp_path, examples, batch_size=3, shard_rows=1, readers=1)
    before, after = ActivationStore.open(extracted.folder), ActivationStore.open(other.folder)
    assert after.ids.tolist() == before.ids.tolist()
    assert after.column("answer").tolist() == before.column("answer").tolist()
    for site in before.sites:
        np.testing.assert_allclose(after.features(site), before.features(site), rtol=1e-4, atol=1e-4)


def test_chosen_sites_and_the_mean_of_the_answer(tmp_path, examples):
    some = examples[:6]
    done = extract(tmp_path, some, sites=("prompt_token", "answer_mean"), layers=(-1, 2))
    store = ActivationStore.open(done.folder)
    assert [s.name for s in store.sites] == [
        f"{kind}.{layer}" for kind in ("prompt_token", "answer_mean") for layer in ("embedding", "layer_2")
    ]
    assert np.ptp(store.features(Site("prompt_token", -1)), axis=0).max() < 1e-6, (
        "the template's constant end"
    )
    assert np.ptp(store.features(Site("answer_mean", 2)), axis=0).max() > 1e-3


# --- labels ------------------------------------------------------------------------------------


def test_labels_from_a_file_replace_judging(tmp_path, examples):
    path = tmp_path / "labels.csv"
    path.write_text(
        "question_id,label\n" + "".join(f"{e.example_id},{n % 2}\n" for n, e in enumerate(examples[:7]))
    )
    done = extract(tmp_path / "out", examples[:8], labels=path)
    store = ActivationStore.open(done.folder)
    assert store.column("label").tolist()[:7] == [0.0, 1.0, 0.0, 1.0, 0.0, 1.0, 0.0]
    assert np.isnan(store.column("label")[7])
    assert store.column("judge").tolist() == ["given"] * 7 + [""]
    assert set(store.column("answer").tolist()) == {""}, "nobody had to answer"


def test_any_judge_and_its_failures(tmp_path, examples, monkeypatch):
    monkeypatch.setitem(sys.modules, "hard_judge", sys.modules[__name__])
    truthless = [replace(examples[0], example_id="untold", answer="")]
    done = extract(tmp_path, [*examples[1:4], *truthless], judge="hard_judge:always_wrong")
    store = ActivationStore.open(done.folder)
    assert dict(zip(store.column("judge").tolist(), store.column("label").tolist(), strict=True)).keys() == {
        "hard_judge:always_wrong",
        "",
    }
    label = dict(zip(store.ids.tolist(), store.column("label").tolist(), strict=True))
    assert np.isnan(label.pop("untold"))
    assert set(label.values()) == {1.0}


def test_when_answers_are_needed(examples):
    labelled = [replace(e, meta={"label": 1.0}) for e in examples[:2]]
    truthless = [replace(e, answer="") for e in examples[:2]]
    for asked, settings, expected in (
        (examples, {}, True),
        (labelled, {}, False),
        (truthless, {}, False),
        (labelled, {"answers": "always"}, True),
        (examples, {"answers": "never"}, False),
        (labelled, {"sites": ("answer_mean",)}, True),
    ):
        assert wants_answers(asked, ExtractSettings(**settings)) is expected
    with pytest.raises(ConfigError, match="for answer_mean"):
        wants_answers(examples, ExtractSettings(answers="never", sites=("answer_mean",)))


# --- bad rows ----------------------------------------------------------------------------------


def png_header(width: int, height: int) -> bytes:
    """A PNG whose header promises a size; decoding it would take width * height * 3 bytes."""
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    header = struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))
    data = b"IDAT" + zlib.compress(b"\0")
    return (
        b"\x89PNG\r\n\x1a\n"
        + header
        + struct.pack(">I", len(data) - 4)
        + data
        + struct.pack(">I", zlib.crc32(data))
    )


def test_bad_images_cost_their_own_rows(tmp_path, examples):
    whole = Path(examples[0].image_uri).read_bytes()
    Image.new("RGB", (1, 1), "red").save(tmp_path / "dot.png")
    Image.new("RGB", (9, 9)).save(tmp_path / "moving.gif")
    for name, data in {
        "cut.png": whole[: len(whole) // 2],
        "text.png": b"this is no image",
        "empty.png": b"",
        "huge.png": png_header(20_000, 20_000),
        "large.png": png_header(7_000, 7_000),
        "really-a-png.jpg": whole,
        "gif.png": (tmp_path / "moving.gif").read_bytes(),
    }.items():
        (tmp_path / name).write_bytes(data)
    names = ["cut.png", "text.png", "empty.png", "huge.png", "large.png", "gif.png", "gone.png"]
    fine = ["really-a-png.jpg", "dot.png"]
    bad = [
        replace(examples[0], example_id=name, image_id=name, image_uri=str(tmp_path / name), sha256="")
        for name in (*names, *fine)
    ]
    changed = replace(examples[3], example_id="changed", sha256="0" * 64)
    done = extract(tmp_path / "out", [*examples[:3], *bad, changed])
    failed = errors(done)
    assert set(failed) == {*names, "changed"}
    assert done.failed == len(failed) == verify(done.folder).quarantined
    for name, message in {
        "cut.png": "whole image",
        "text.png": "to be an image",
        "empty.png": "0 bytes of something else",
        "huge.png": "at most 40000000 pixels",
        "large.png": "7000 x 7000",
        "gif.png": "to be an image",
        "gone.png": "No such file",
        "changed": "has changed since",
    }.items():
        assert message in failed[name], failed[name]
    ids = ActivationStore.open(done.folder).ids.tolist()
    assert ids == [*[e.example_id for e in examples[:3]], *fine]


def test_a_question_the_model_cannot_take_fails_alone(tmp_path, examples):
    odd = replace(examples[1], example_id="odd", question="Is there a <image> in the image?")
    done = extract(tmp_path, [examples[0], odd, *examples[2:6]])
    assert list(errors(done)) == ["odd"]
    assert done.rows == 5


def test_features_that_are_not_finite_are_put_aside(examples, vlm, monkeypatch):
    capture = Vlm.capture

    def spoiled(self, prompts, sites, answers=None, **options):
        found = capture(self, prompts, sites, answers, **options)
        for n, prompt in enumerate(prompts):
            if prompt.question == examples[2].question:
                found["query_token.layer_2"][n, 5] = np.nan
        return found

    monkeypatch.setattr(Vlm, "capture", spoiled)
    sites = tuple(site.name for site in default_sites(5))
    worker = ExtractWorker(ExtractWorkerConfig(ModelConfig(), SETTINGS, sites, LEXICON, False, False), vlm)
    rows = [e.to_row() for e in examples[:5]]
    result = worker({name: np.asarray([r[name] for r in rows], dtype=object) for name in rows[0]})
    failed = [bool(error) for error in result["error"]]
    assert failed == [e.question == examples[2].question for e in examples[:5]]
    assert "query_token.layer_2 hold NaN" in result["error"][2]


def test_a_run_in_which_every_row_failed_is_an_error(tmp_path, examples):
    (tmp_path / "empty.png").write_bytes(b"")
    bad = [replace(e, image_uri=str(tmp_path / "empty.png"), sha256="") for e in examples[:2]]
    with pytest.raises(DataError, match="2 failures, the first being .* 0 bytes"):
        extract(tmp_path / "out", bad)


def test_bad_input_is_refused_before_work(tmp_path, examples):
    with pytest.raises(DataError, match="none of 1 found"):
        extract(tmp_path / "a", [replace(examples[0], image_uri="/no/such.png")])
    with pytest.raises(DataError, match="more than once"):
        extract(tmp_path / "b", [examples[0], examples[0]])
    with pytest.raises(ConfigError, match="from -1 to 4: world has 5 blocks"):
        extract(tmp_path / "c", examples, layers=(0, 5))
    (tmp_path / "labels.csv").write_text("question_id,label\nelse,1\n")
    with pytest.raises(DataError, match="of other ids"):
        extract(tmp_path / "d", examples, labels=tmp_path / "labels.csv")
    with pytest.raises(ConfigError, match="a module that can be imported"):
        extract(tmp_path / "f", examples, judge="no_such_module:judge")
    with pytest.raises(DataError, match="a lexicon at"):
        extract(tmp_path / "e", examples, lexicon=str(tmp_path / "none.json"))
    assert not list(tmp_path.rglob("*.h5"))


@pytest.mark.parametrize(
    "setting",
    [
        "layers=[0,0]",
        "layers=[-2]",
        "layers=[]",
        "sites=[]",
        "sites=[vision_only,vision_only]",
        "judge=no judge",
    ],
)
def test_settings_that_cannot_be_are_refused(setting):
    with pytest.raises(ConfigError, match=setting.split("=")[0]):
        parse(ExtractConfig, [f"extraction.{setting}"])


# --- resuming ------------------------------------------------------------------------------------


def test_an_interrupted_run_goes_on_and_damage_is_redone(tmp_path, examples, monkeypatch):
    calls = 0
    extract_portion = ExtractWorker.extract

    def dies(self, *given):
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return extract_portion(self, *given)

    monkeypatch.setattr(ExtractWorker, "extract", dies)
    with pytest.raises(KeyboardInterrupt):
        extract(tmp_path / "out", examples, shard_rows=1)
    done = extract(tmp_path / "out", examples, shard_rows=1)
    assert done.report["resumed_shards"] > 0
    parts = {p.name: p.read_bytes() for p in Path(done.folder).glob("*.h5")}
    first, second, *_ = sorted(parts)
    (Path(done.folder) / first).write_bytes(parts[first][:-9])  # cut short: seen by its size
    again = extract(tmp_path / "out", examples, shard_rows=1)
    assert again.report["resumed_shards"] == len(parts) - 1
    flipped = bytearray(parts[second])
    flipped[len(flipped) // 2] ^= 1  # same size: seen by its hash
    (Path(done.folder) / second).write_bytes(flipped)
    with pytest.raises(StorageError, match=f"{second}: changed since"):
        extract(tmp_path / "out", examples, shard_rows=1)
    extract(tmp_path / "out", examples, shard_rows=1)
    assert {p.name: p.read_bytes() for p in Path(done.folder).glob("*.h5")} == parts
    with pytest.raises(StorageError, match=r"extraction\.short_answer_tokens: 4 -> 5"):
        extract(tmp_path / "out", examples, shard_rows=1, short_answer_tokens=5)


# --- the parts ------------------------------------------------------------------------------------


def test_portions_keep_an_images_questions_together():
    rows = [Example(str(n), i, i, "q", "open") for n, i in enumerate("aaabbcdddd")]
    sizes = [["".join(e.image_uri for e in portion)] for portion in portions_of(rows, 4)]
    assert sizes == [["aaabb"], ["cdddd"]]


def test_loading_ahead_is_bounded_and_in_order():
    begun: list[str] = []
    batches = [[f"{n}a", f"{n}b", f"{n}a"] for n in range(6)]
    loaded = loaded_ahead(batches, lambda uri: begun.append(uri) or uri.upper(), threads=2, ahead=1)
    for n, found in enumerate(loaded):
        assert found == {f"{n}a": f"{n}A", f"{n}b": f"{n}B"}
        assert len(begun) <= 2 * (n + 2), "one batch ahead, each file once"
    assert n == 5
    with pytest.raises(ZeroDivisionError):
        list(loaded_ahead([["x"]], lambda uri: 1 / 0, threads=1))
    assert list(loaded_ahead([], str, threads=1)) == []


def test_plan_says_what_would_be_done_without_doing_it(tmp_path, examples):
    text = plan(ExtractConfig())
    assert "11: vision_only, vision_token.layer_0" in text
    assert "yes_no, color, count" in text
    path = tmp_path / "x.jsonl"
    path.write_text("".join(json.dumps(e.to_row()) + "\n" for e in examples))
    dataset = JsonlDataset(type="jsonl", path=str(path))
    labels = tmp_path / "l.csv"
    labels.write_text(f"question_id,label\n{examples[0].example_id},1\nelse,0\n")
    config = ExtractConfig(dataset=dataset, labels=str(labels))
    assert f"2 from {labels}, for 1 of the questions" in plan(config)
    assert f"{len(examples)} questions about 4 images; 0 rows without their file" in plan(config)
    real = ModelConfig(source="HuggingFaceTB/SmolVLM2-2.2B-Instruct")
    names = [site.name for site in sites_of(real, ExtractSettings())]
    assert names[1:6] == [f"vision_token.layer_{n}" for n in (0, 6, 12, 18, 23)]
