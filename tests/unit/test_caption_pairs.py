"""Pairs of captions: from VTI's file, from CHAIR's annotations, from the world; and their settings."""

from __future__ import annotations

import json

import pytest
from tiny import random_image

from sightline.config.directions import ChairPairs, DirectionsConfig, VtiPairs, WorldPairs
from sightline.config.loader import parse
from sightline.data.caption_pairs import read_chair, read_vti, without_sentences
from sightline.distributed.directions import load_pairs, plan
from sightline.errors import ConfigError, DataError, ImageError
from sightline.metrics.objects import Lexicon, plurals
from sightline.world.nouns import LEXICON


@pytest.fixture
def folder(tmp_path):
    random_image(1).save(tmp_path / "a.png")
    return tmp_path


def jsonl(folder, *rows):
    path = folder / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_vtis_file(folder):
    rows = [
        {"id": n, "image": "a.png", "value": f"A dog {n}.", "h_value": "A cat.", "question": "Q?"}
        for n in range(5)
    ]
    pairs = read_vti(jsonl(folder, *rows))
    assert [(p.chosen, p.rejected, p.question) for p in pairs][:2] == [
        ("A dog 0.", "A cat.", "Q?"),
        ("A dog 1.", "A cat.", "Q?"),
    ]
    assert pairs[0].image_uri == str(folder / "a.png")
    assert len({p.pair_id for p in pairs}) == 5
    drawn = read_vti(folder / "pairs.jsonl", limit=2, seed=1)
    assert len(drawn) == 2
    assert drawn == read_vti(folder / "pairs.jsonl", limit=2, seed=1)


def test_chairs_annotations_lose_their_sentences(folder):
    told = "A dog sits on a couch. Two forks lie beside it. The wall is red."
    rows = [
        {"image": "a.png", "caption": told, "hallucinated": ["fork"]},
        {"image": "a.png", "caption": told, "mscoco_hallucinated_words": [["couch", "couch"], ["wall", "x"]]},
        {"image": "a.png", "caption": told, "hallucinated": []},
        {"image": "a.png", "caption": "A fork.", "hallucinated": ["fork"]},
    ]
    first, second = read_chair(jsonl(folder, *rows), plurals)
    assert first.chosen == "A dog sits on a couch. The wall is red."
    assert first.rejected == told
    assert second.chosen == "Two forks lie beside it."
    assert first.question == "Describe this image in detail."


def test_words_are_whole_words():
    assert without_sentences("A scar. A CAR! Two cars? Buses.", ["car", "bus"], plurals) == "A scar."
    assert without_sentences("Two knives. A dog.", ["knife"], plurals) == "A dog."
    assert without_sentences("A traffic light. A light.", ["traffic light"], plurals) == "A light."
    assert without_sentences("A dog.", [], plurals) == "A dog."


@pytest.mark.parametrize(
    ("row", "error", "match"),
    [
        ({"image": "a.png", "value": "A dog."}, DataError, r"h_value.*:1"),
        ({"image": "gone.png", "value": "A.", "h_value": "B."}, ImageError, "gone"),
        ("[1]", DataError, "one JSON object"),
        ("{", DataError, "one JSON object"),
    ],
)
def test_broken_rows_are_named(folder, row, error, match):
    path = folder / "pairs.jsonl"
    path.write_text(row if isinstance(row, str) else json.dumps(row))
    with pytest.raises(error, match=match):
        read_vti(path)


def test_a_file_without_a_pair_is_refused(folder):
    path = jsonl(folder, {"image": "a.png", "caption": "A fork.", "hallucinated": ["fork"]})
    with pytest.raises(DataError, match="at least one pair"):
        read_chair(path, plurals)
    with pytest.raises(DataError, match=r"nowhere\.jsonl"):
        read_vti(folder / "nowhere.jsonl")


def test_the_worlds_pairs_differ_by_what_is_not_there(tmp_path):
    pairs = load_pairs(WorldPairs(scenes=12, invented=2), scratch=str(tmp_path))
    assert len(pairs) == 12
    words = Lexicon(LEXICON)
    for pair in pairs:
        clean, wrong = ({m.node for m in words.mentions(text)} for text in (pair.chosen, pair.rejected))
        assert clean < wrong
        assert len(wrong - clean) == 2
    assert pairs == load_pairs(WorldPairs(scenes=12, invented=2), scratch=str(tmp_path))


def test_no_config_is_needed_and_files_have_types(folder):
    assert parse(DirectionsConfig, []) == DirectionsConfig()
    path = jsonl(folder, {"image": "a.png", "value": "A dog.", "h_value": "A cat."})
    config = parse(DirectionsConfig, ["pairs.type=vti", f"pairs.path={path}", "perturbation.type=blur"])
    assert isinstance(config.pairs, VtiPairs)
    assert isinstance(parse(DirectionsConfig, ["pairs.type=chair", "pairs.path=x"]).pairs, ChairPairs)
    text = plan(config)
    assert "1 pairs of captions of 1 images" in text
    assert "blur (radius 4)" in text
    with pytest.raises(ConfigError, match="every kind"):
        parse(DirectionsConfig, ["derive.kinds=[text,text]"])
    with pytest.raises(ConfigError, match="mask, blur"):
        parse(DirectionsConfig, ["perturbation.type=fog"])
