"""Published benchmarks: every loader on a small file of its form, and on the oracles where they are."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
from PIL import Image
from pydantic import TypeAdapter

from sightline.config.dataset import BENCHMARKS as TYPES
from sightline.config.dataset import RESTRICTED, DatasetConfig
from sightline.data.benchmarks import BENCHMARKS
from sightline.data.examples import check_images
from sightline.data.items import SPLITS, Photo, pope_items, read_objects, read_photos
from sightline.data.licences import SOURCES, is_restricted
from sightline.data.mmed_rag import domain_of, glaucoma_label
from sightline.data.pope import read_pope
from sightline.data.pope_editions import edition_of_file
from sightline.distributed.sources import load_examples
from sightline.errors import DataError
from sightline.metrics.vqa import Accepted


def write(path, value, *, lines=False):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(map(json.dumps, value)) if lines else json.dumps(value))
    return path


def load(kind, path, **settings):
    dataset = TypeAdapter(DatasetConfig).validate_python({"type": kind, "path": str(path), **settings})
    return load_examples(dataset, scratch=path.parent)


def test_every_type_has_a_loader_a_source_and_a_licence():
    assert set(TYPES) == set(BENCHMARKS)
    assert set(BENCHMARKS) - {"objects"} <= set(SOURCES)
    assert {name for name, source in SOURCES.items() if source.restricted} == set(RESTRICTED)
    assert all(source.licence and source.url and source.files for source in SOURCES.values())


@pytest.mark.parametrize("kind", sorted(set(TYPES) - {"objects"}))
def test_a_missing_file_says_what_to_download(kind, tmp_path):
    with pytest.raises(DataError, match="licence"):
        load(kind, tmp_path / "nothing")


@pytest.mark.golden
@pytest.mark.parametrize("split", SPLITS)
def test_official_pope(shared, split):
    path = shared / "pope" / "official" / f"coco_pope_{split}.json"
    examples = read_pope(path)
    assert len(examples) == 3000
    assert len({e.image_id for e in examples}) == 500
    assert Counter(e.answer for e in examples) == {"yes": 1500, "no": 1500}
    assert examples[0].meta["edition"].startswith("official-2024 ")
    found = edition_of_file(path)
    assert (found.name, found.split, found.typos) == ("official-2024", split, 0)


@pytest.mark.golden
def test_other_editions_of_pope(shared, tmp_path):
    old = edition_of_file(shared / "pope" / "edition_2023" / "coco_pope_random.json")
    assert (old.name, old.questions, old.yes, old.typos) == ("2023", 2910, 1500, 144)
    vcd = edition_of_file(shared / "pope" / "edition_vcd" / "coco_pope_adversarial.json")
    assert (vcd.name, vcd.questions, vcd.typos) == ("vcd", 3000, 57)
    rows = [json.loads(line) for line in (shared / "pope/official/coco_pope_random.json").open()]
    shuffled_keys = write(tmp_path / "same.json", [dict(reversed(r.items())) for r in rows], lines=True)
    assert edition_of_file(shuffled_keys).name == "official-2024", "what counts is the content"
    for row in rows[:44]:
        row["text"] = row["text"].replace("image", "imange")
    assert edition_of_file(write(tmp_path / "typos.json", rows, lines=True)).name == "unknown"
    assert edition_of_file(write(tmp_path / "part.json", rows[100:], lines=True)).name == "unknown"


def test_the_chat_edition_is_recognised_and_refused(tmp_path):
    row = {"question_id": 1, "image": "a.jpg", "text": ["Is there a dog?"], "label": ["yes"]}
    path = write(tmp_path / "coco_pope_chat_random.json", [row], lines=True)
    assert edition_of_file(path).name == "chat"
    with pytest.raises(DataError, match="multi-turn"):
        read_pope(path)


def coco(folder, *, captions=(1, 2)):
    write(
        folder / "instances_val2014.json",
        {
            "images": [{"id": 1, "file_name": "1.jpg"}, {"id": 2, "file_name": "2.jpg"}],
            "categories": [{"id": 18, "name": "dog"}, {"id": 62, "name": "chair"}],
            "annotations": [
                {"image_id": 2, "category_id": 18},
                {"image_id": 2, "category_id": 62},
                {"image_id": 2, "category_id": 18},
                {"image_id": 1, "category_id": 62},
            ],
        },
    )
    said = [{"image_id": i, "caption": f"A seat in picture {i}."} for i in captions for _ in range(2)]
    write(folder / "captions_val2014.json", {"annotations": said})
    return folder


def test_chair_on_coco(tmp_path):
    examples = load("coco_chair", coco(tmp_path / "annotations"))
    assert [(e.image_id, e.objects) for e in examples] == [("1", ("chair",)), ("2", ("chair", "dog"))]
    assert examples[0].meta["references"] == ["A seat in picture 1."] * 2
    assert examples[0].image_uri == str(tmp_path / "1.jpg")
    with pytest.raises(DataError, match="2014 and 2017"):
        load("coco_chair", coco(tmp_path / "mixed", captions=(1,)))
    write(tmp_path / "annotations" / "instances_train2014.json", {})
    with pytest.raises(DataError, match="one instances"):
        load("coco_chair", tmp_path / "annotations")


@pytest.mark.golden
def test_released_files_of_amber_and_mmhal(shared):
    amber = load("amber", shared / "amber")
    assert Counter(e.split for e in amber) == {"amber_generative": 1004, "amber_relation": 1664}
    assert {e.meta["edition"] for e in amber} == {"released"}
    mmhal = load("mmhal", shared / "mmhal" / "mmhal-bench_answer_template.json")
    assert len(mmhal) == 96
    assert mmhal[95].meta["type"] == "other"
    assert mmhal[0].meta["contents"] == ["Fire hydrant"]


def test_a_folder_without_images_is_named(tmp_path):
    write(tmp_path / "annotations.json", [{"id": 1, "type": "generative", "truth": ["sky"], "hallu": []}])
    write(tmp_path / "query" / "query_generative.json", [{"id": 1, "image": "A_1.jpg", "query": "Describe."}])
    examples = load("amber", tmp_path)
    assert examples[0].meta["edition"] == "unknown"
    with pytest.raises(DataError, match="image_root"):
        check_images(examples)
    write(tmp_path / "query" / "query_all.json", [{"id": 2, "image": "A_2.jpg", "query": "?"}])
    with pytest.raises(DataError, match="annotations.json"):
        load("amber", tmp_path)


def test_mmhal_in_another_order_is_refused(tmp_path):
    row = {
        "image_id": "x",
        "image_src": "http://h/x.jpg",
        "image_content": [],
        "question": "q",
        "gt_answer": "a",
    }
    with pytest.raises(DataError, match="96"):
        load("mmhal", write(tmp_path / "short.json", [{"question_type": "attribute", **row}]))
    with pytest.raises(DataError, match="type attribute"):
        load("mmhal", write(tmp_path / "other.json", [{"question_type": "counting", **row}]))


def test_infoseek(tmp_path):
    rows = [
        {"data_id": "v1", "image_id": "oven_1", "question": "How high?", "answer": ["8849"],
         "answer_eval": [{"wikidata": 8849.0, "range": [7964.1, 9733.9]}], "data_split": "val_unseen_entity"},
        {"data_id": "v2", "image_id": "oven_2", "question": "Which river?", "answer": ["Nile"],
         "answer_eval": ["Nile", "River Nile"]},
    ]  # fmt: skip
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "oven_1.jpg").touch()
    high, river = load("infoseek", write(tmp_path / "val.jsonl", rows, lines=True))
    assert Accepted.of(high.meta["accepted"]) == Accepted(("8849",), 7964.1, 9733.9)
    assert Accepted.of(river.meta["accepted"]).texts == ("Nile", "River Nile")
    assert high.image_uri.endswith("images/oven_1.jpg")
    assert (high.split, river.split) == ("val_unseen_entity", "infoseek")
    with pytest.raises(DataError, match="data_id"):
        load("infoseek", write(tmp_path / "bad.jsonl", [{"question": "?"}], lines=True))


def test_kvqa(tmp_path):
    row = {
        "imgPath": "KVQAimgs/1.jpg",
        "Questions": ["Who is left?", "Is she older?"],
        "Answers": ["Ann", "Yes"],
        "Type of Question": [["spatial"], ["comparison", "multi-hop"]],
    }
    who, older = load("kvqa", write(tmp_path / "dataset.json", {"17": row}))
    assert (who.kind, who.answer, who.meta["types"]) == ("open", "Ann", ["spatial"])
    assert (older.kind, older.example_id) == ("open", "kvqa/17/1")
    with pytest.raises(DataError, match="photograph 17"):
        load("kvqa", write(tmp_path / "dataset.json", {"17": {**row, "Answers": ["Ann"]}}))


def test_medical_choices_and_restriction(tmp_path):
    rows = [
        {"qid": 3, "img_name": "x.png", "question": "Which organ?", "options": {"A": "lung", "B": "heart"},
         "gt": "B"},
        {"image": "y.png", "question": "Which bone?", "answer": "Not a suitable question for the image",
         "options": ["femur", "Not a suitable question for the image"]},
        {"image": "y.png", "question": "Is there effusion?", "answer": "no"},
    ]  # fmt: skip
    organ, bone, effusion = load("medhall", write(tmp_path / "m.json", rows))
    assert organ.question == "Which organ?\nA. lung\nB. heart"
    assert (organ.meta["gold"], organ.meta["unsuitable"]) == ("B", False)
    assert (bone.meta["gold"], bone.meta["unsuitable"]) == ("B", True)
    assert effusion.kind == "yes_no"
    assert [e.example_id for e in (organ, bone)] == ["medhall/3", "medhall/row 2"]
    assert [e.split for e in (organ, bone, effusion)] == ["medhall_choice"] * 2 + ["medhall_yes_no"]
    assert all(map(is_restricted, (organ, bone, effusion)))
    with pytest.raises(DataError, match="answer or gt_answer"):
        load("medhall", write(tmp_path / "bad.json", [{"image": "x", "question": "?"}]))


@pytest.mark.golden
def test_mmed_rags_released_pairs(shared):
    examples = load("mmed_rag", shared / "mmed_rag" / "alignment_iuxray_report.json")
    assert len(examples) == 96
    assert {e.split for e in examples} == {"mmed_rag_radiology_report"}
    assert all(map(is_restricted, examples))
    assert "<image>" not in examples[0].question
    assert examples[0].meta["reference_reports"] == 1
    assert examples[0].meta["rejected"].startswith("The chest X-ray shows")
    assert examples[0].meta["rejected_noised"] is True


def test_mmed_rags_questions_and_harvards_npz(tmp_path):
    rows = [
        {"image": "slo_fundus_00001.jpg", "question": "Glaucoma?", "answer": "yes",
         "reference_reports": ["Cup-to-disc 0.8.", "Normal."]},
        {"image": "quilt/1.jpg", "text": "<image>\nIs it benign?", "answer": "- no"},
    ]  # fmt: skip
    np.savez(tmp_path / "data_00001.npz", glaucoma=np.array(1.0), note=np.array("secret"), age=np.array(63))
    fundus, slide = load("mmed_rag", write(tmp_path / "vqa.jsonl", rows, lines=True))
    assert (fundus.split, slide.split) == ("mmed_rag_ophthalmology", "mmed_rag_pathology")
    assert fundus.context == "Cup-to-disc 0.8.\nNormal."
    assert fundus.meta["glaucoma"] is True
    assert "secret" not in json.dumps(fundus.to_row())
    assert slide.question == "Is it benign?"
    assert domain_of("a/b.png") == domain_of("mimic/quilt") == "unknown"
    np.savez(tmp_path / "data_00001.npz", glaucoma=np.array({"code": 1}, dtype=object))
    with pytest.raises(DataError, match="npz"):
        glaucoma_label(tmp_path / "data_00001.npz")
    (tmp_path / "data_00001.npz").write_bytes(b"PK no zip")
    with pytest.raises(DataError, match="npz"):
        load("mmed_rag", tmp_path / "vqa.jsonl")
    broken = [{"image": "x.png", "conversations": [{"from": "human", "value": "?"}]}]
    with pytest.raises(DataError, match="one from gpt"):
        load("mmed_rag", write(tmp_path / "pairs.json", broken))


@pytest.mark.parametrize("form", ["captions.txt", "Flickr8k.token.txt"])
def test_flickr8k(tmp_path, form):
    if form == "captions.txt":
        lines = ["image,caption", *(f'a.jpg,"A dog, {i}."' for i in range(5))]
    else:
        lines = [f"a.jpg#{i}\tA dog, {i}." for i in range(5)]
    path = tmp_path / form
    path.write_text("\n".join(lines))
    (example,) = load("flickr8k", path)
    assert example.meta["references"] == [f"A dog, {i}." for i in range(5)]
    assert example.image_uri == str(tmp_path / "Images" / "a.jpg")
    path.write_text("\n".join(lines[:-1]))
    with pytest.raises(DataError, match="5 captions"):
        load("flickr8k", path)


def photographs(folder):
    objects = {"a": ["cup", "fork"], "b": ["cup", "fork"], "c": ["cup", "dog"], "d": ["cat"], "e": []}
    rows = [{"image": f"{name}.png", "objects": found} for name, found in objects.items()]
    for row in rows:
        Image.new("RGB", (8, 8)).save(folder / row["image"])
    return write(folder / "objects.json", rows)


def test_items_of_any_images_with_known_objects(tmp_path):
    examples = load("objects", photographs(tmp_path))
    assert check_images(examples) == []
    counts = Counter(e.split for e in examples)
    assert counts == {"caption": 5, "pope_random": 14, "pope_popular": 14, "pope_adversarial": 14}
    by_split = {s: [e for e in examples if e.split == f"pope_{s}" and e.image_id == "c"] for s in SPLITS}
    positives = {s: [e.meta["noun"] for e in rows if e.answer == "yes"] for s, rows in by_split.items()}
    assert sorted(positives["random"]) == ["cup", "dog"]
    assert positives["random"] == positives["popular"] == positives["adversarial"]
    # fork stands in two images, both with the cup: the most frequent and the most adversarial absent noun
    assert next(e for e in by_split["popular"] if e.answer == "no").meta["noun"] == "fork"
    assert next(e for e in by_split["adversarial"] if e.answer == "no").meta["noun"] == "fork"
    assert read_objects(tmp_path / "objects.json", seed=0) == examples
    assert all(e.answer == ("yes" if e.meta["noun"] in e.objects else "no") for e in examples if e.meta)


def test_an_article_and_an_empty_set():
    questions = [e.question for e in pope_items([Photo("i", "i.png", ("umbrella",))], "random")]
    assert questions == ["Is there an umbrella in the image?"]
    assert pope_items([Photo("i", "i.png", ())], "popular") == []


def test_photographs_are_checked(tmp_path):
    with pytest.raises(DataError, match="given once"):
        read_photos(write(tmp_path / "twice.json", [{"image": "a.png", "objects": []}] * 2))
    with pytest.raises(DataError, match="objects"):
        read_photos(write(tmp_path / "none.json", [{"image": "a.png"}]))
    with pytest.raises(DataError, match="at least one image"):
        read_photos(write(tmp_path / "empty.json", []))


@pytest.mark.golden
def test_the_25_photographs(shared):
    examples = load("objects", shared / "coco_photos")
    assert len({e.image_id for e in examples}) == 25
    assert check_images(examples) == []
    for split in SPLITS:
        answers = Counter(e.answer for e in examples if e.split == f"pope_{split}")
        assert answers["yes"] == answers["no"] > 25
