"""Nearest scenes: closed-form vectors, and never the query's own text."""

from __future__ import annotations

import numpy as np
import pytest

from sightline.errors import DataError
from sightline.records import Example
from sightline.retrieval.nearest import Index, Passage, passages


def test_nearest_first_and_never_its_own():
    angles = np.deg2rad([0, 10, 21, 90])
    vectors_ND = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    corpus = [Passage(name, f"text {name}") for name in "abcd"]
    found = Index(corpus, vectors_ND).search(vectors_ND, "abcd", 2)
    assert [[p.image_id for p in row] for row in found] == [
        ["b", "c"],
        ["a", "c"],
        ["b", "a"],
        ["c", "b"],
    ]


def test_several_passages_of_one_image_are_all_passed_over():
    corpus = [Passage("a", "1"), Passage("a", "2"), Passage("b", "3")]
    vectors_ND = np.array([[1, 0], [1, 0], [0, 1]], dtype=np.float32)
    index = Index(corpus, vectors_ND)
    assert index.search(vectors_ND[:1], ["a"], 1) == [[corpus[2]]]
    assert index.search(vectors_ND[:1], ["a"], 5) == [[corpus[2]]]


def test_passages_are_true_captions_one_an_image():
    def row(n, image, kind, **more):
        return Example(f"e{n}", image, "", "q", kind, **more)

    examples = [
        row(0, "a", "yes_no", answer="Yes."),
        row(1, "a", "caption", answer="A dog."),
        row(2, "b", "yes_no", answer="No.", meta={"caption": "A cat."}),
        row(3, "b", "color", answer="Red.", meta={"caption": "A cat."}),
        row(4, "c", "yes_no", answer="No."),
    ]
    assert passages(examples) == [Passage("a", "A dog."), Passage("b", "A cat.")]


def test_empty_corpus_is_refused():
    with pytest.raises(DataError, match="a corpus"):
        Index([], np.zeros((0, 2)))
