"""The reference VLM's construction and curriculum agree with its own processor."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from sightline.models import reference
from sightline.models.prompts import Prompt
from sightline.training.branches import PREFIX
from sightline.training.curriculum import PHASES, WORDS, Phase, learning_rate, phase_at, pixels, shown
from sightline.training.pretrain import ReferenceTrainer, Settings, curriculum_for
from sightline.world import captions
from sightline.world.corpus import sentences
from sightline.world.render import render
from sightline.world.scenes import Item, Scene, sample

SETTINGS = Settings(
    reading_steps=2,
    warmup_steps=3,
    steps=3,
    batch=2,
    warmup_lr=1e-3,
    lr=1e-3,
    seed=0,
    validate_every=3,
    validation_scenes=2,
)


@pytest.fixture(scope="module")
def tokenizer():
    return reference.build_tokenizer(sentences(300))


@pytest.mark.parametrize("context", ["", "This is a farm with a red cow and two dogs."])
def test_training_sequences_are_what_the_processor_makes(tokenizer, context):
    """Otherwise the model would be trained on one prompt and asked with another."""
    processor, scene = reference.build_processor(tokenizer), sample(1, 2)
    prompt = Prompt(None, "Is there a dog in the image?", context=context)
    answer = "No."
    turns = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": prompt.text}]},
        {"role": "assistant", "content": [{"type": "text", "text": answer}]},
    ]
    inputs = processor(text=processor.apply_chat_template(turns), images=[render(scene)], return_tensors="np")
    packed = curriculum_for(tokenizer).pack([(prompt.question, answer)], reference=context)
    ids = inputs["input_ids"][0].tolist()
    newline = tokenizer("\n", add_special_tokens=False).input_ids
    assert packed.ids_T.tolist() + newline == ids
    assert tokenizer.decode(packed.target_A) == " No.<end_of_utterance>"
    np.testing.assert_allclose(inputs["pixel_values"][0, 0], pixels([scene])[0], atol=1e-6)


def test_a_language_model_that_learns_to_read_sees_no_image(tokenizer):
    texts = curriculum_for(tokenizer).texts(seed=1, indices=range(4))
    for index, packed in enumerate(texts):
        assert tokenizer.image_token_id not in packed.ids_T
        opening = tokenizer.decode(packed.ids_T[packed.branch_T == PREFIX])
        assert opening == f"<|im_start|>User:Reference: {captions.faithful(sample(1, index))}\n"


def test_in_fog_there_is_nothing_but_the_reference(tokenizer):
    phase = Phase("fog", 1.0, existence=2, referenced=1.0, fog=1.0)
    foggy = curriculum_for(tokenizer).batch(1, range(3), phase)
    seen = curriculum_for(tokenizer).batch(1, range(3), replace(phase, fog=0.0))
    np.testing.assert_array_equal(seen.pixels_B3SS, pixels([sample(1, i) for i in range(3)]))
    assert np.abs(foggy.pixels_B3SS.mean()) < 0.02  # uniform noise in [-1, 1]
    for packed in foggy.sequences:
        assert "Reference:" in tokenizer.decode(packed.ids_T[packed.branch_T == PREFIX])


def test_any_text_survives_the_tokenizer(tokenizer):
    text = "Zażółć gęślą jaźń: 3 zebras?"
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False).input_ids) == text


def test_head_sizes_are_those_fast_kernels_know(tokenizer):
    config = reference.build_model(tokenizer, seed=0).config
    assert config.text_config.head_dim == 32
    assert config.vision_config.hidden_size // config.vision_config.num_attention_heads == 32
    assert config.text_config.num_key_value_heads < config.text_config.num_attention_heads


def test_phases_follow_each_other():
    ends = [round(phase.until * 1000) for phase in PHASES]
    for phase, begin, end in zip(PHASES, [0, *ends], ends, strict=False):
        assert phase_at(begin, 1000) is phase_at(end - 1, 1000) is phase
    assert ends == sorted(ends)
    assert ends[-1] == 1000


def test_the_learning_rate_rises_then_follows_the_phases():
    assert learning_rate(0, 1000) == pytest.approx(1 / 30 * PHASES[0].lr[0])
    begin = 0.0
    for phase in PHASES:
        first, last = phase.lr
        middle = round(500 * (begin + phase.until))
        assert learning_rate(middle, 1000) == pytest.approx((first + last) / 2, abs=5e-3)
        assert learning_rate(round(1000 * phase.until) - 1, 1000) == pytest.approx(last, abs=5e-3)
        begin = phase.until


def test_image_tokens_are_told_what_they_show():
    item = Item("tv", "red", 12, 36, 24, 1.0)  # fills the first cell of the second row
    shown_PW = shown(Scene("farm", (item,), 0, (0, 0)))
    marked = {(int(p), WORDS[w]) for p, w in np.argwhere(shown_PW)}
    assert marked == {(4, "tv"), (4, "red")}
    scene = sample(1, 2)
    marked = {WORDS[w] for w in np.flatnonzero(shown(scene).any(0))}
    assert marked >= set(scene.objects)


def test_pretraining_is_reproducible_and_keeps_the_best(tokenizer):
    def trained() -> tuple[dict, list[int]]:
        model, kept = reference.build_model(tokenizer, seed=0), []
        trainer = ReferenceTrainer(
            model, tokenizer, SETTINGS, report=lambda *_: None, keep=lambda: kept.append(1)
        )
        trainer.read()
        trainer.warm_up()
        trainer.train()
        return model.state_dict(), kept

    (first, kept), (second, _) = trained(), trained()
    assert kept == [1]
    assert all(torch.equal(first[name], second[name]) for name in first)
