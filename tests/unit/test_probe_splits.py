"""Splits: images stay whole, classes stay balanced, HALP's is sklearn's, seeds repeat."""

import numpy as np
import pytest
from sklearn.model_selection import train_test_split

from sightline.config.probing import SplitSettings
from sightline.errors import ConfigError, DataError
from sightline.probes.splits import split_rows


def rows(images=120, seed=0, positive=0.1):
    rng = np.random.default_rng(seed)
    names = np.repeat([f"image_{i}" for i in range(images)], rng.integers(1, 9, size=images))
    labels = (rng.random(len(names)) < positive).astype(int)
    sources = np.where(np.char.str_len(names) > 8, "pope", "amber")
    return labels, names.tolist(), sources.tolist()


@pytest.mark.parametrize("by", ["image", "question"])
@pytest.mark.parametrize("valid_share", [0.0, 0.1])
def test_every_row_is_on_one_side_and_shares_are_kept(by, valid_share):
    labels, images, _ = rows()
    split = split_rows(labels, SplitSettings(by=by, valid_share=valid_share), images=images)
    everything = np.concatenate([split.train, split.valid, split.test])
    assert sorted(everything.tolist()) == list(range(len(labels)))
    assert len(split.test) / len(labels) == pytest.approx(0.2, abs=0.02)
    assert len(split.valid) / len(labels) == pytest.approx(valid_share, abs=0.02)
    for side in (split.train, split.test):
        assert labels[side].mean() == pytest.approx(labels.mean(), abs=0.03)


def test_by_image_no_image_is_on_two_sides():
    labels, images, _ = rows()
    split = split_rows(labels, SplitSettings(), images=images)
    sides = [{images[i] for i in side} for side in (split.train, split.valid, split.test)]
    assert not sides[0] & sides[1]
    assert not sides[0] & sides[2]
    assert not sides[1] & sides[2]


def test_by_question_is_halps():
    labels, images, _ = rows()
    split = split_rows(labels, SplitSettings(by="question", valid_share=0), images=images)
    train, test = train_test_split(np.arange(len(labels)), test_size=0.2, random_state=42, stratify=labels)
    np.testing.assert_array_equal(split.train, np.sort(train))
    np.testing.assert_array_equal(split.test, np.sort(test))


def test_by_source_the_held_one_only_judges_and_its_images_do_not_learn():
    labels, images, sources = rows()
    images[0] = images[-1]  # an image that two sources share
    split = split_rows(labels, SplitSettings(by="source", source="pope"), images=images, sources=sources)
    assert {sources[i] for i in split.test} == {"pope"}
    assert {sources[i] for i in split.train} == {"amber"}
    assert 0 not in np.concatenate([split.train, split.valid])
    assert split.name == "source pope"


def test_the_seed_decides():
    labels, images, _ = rows()
    first, again = (split_rows(labels, SplitSettings(seed=3), images=images) for _ in range(2))
    other = split_rows(labels, SplitSettings(seed=4), images=images)
    np.testing.assert_array_equal(first.test, again.test)
    assert not np.array_equal(first.test, other.test)


def test_what_cannot_be_split_is_refused():
    labels, images, sources = rows()
    one = np.zeros(len(labels), dtype=int)
    one[0] = 1
    for by in ("image", "question"):
        with pytest.raises(DataError, match="both classes"):
            split_rows(one, SplitSettings(by=by), images=images)
    with pytest.raises(ConfigError, match="amber, pope"):
        split_rows(labels, SplitSettings(by="source", source="coco"), images=images, sources=sources)
    with pytest.raises(ConfigError, match="two or more sources"):
        split_rows(labels, SplitSettings(by="source", source="a"), images=images, sources=["a"] * len(labels))
    with pytest.raises(DataError, match="one image"):
        split_rows(labels, SplitSettings(), images=images[:-1])
