"""The reference VLM's construction and curriculum agree with its own processor."""

import numpy as np
import pytest
import torch

from sightline.models import reference
from sightline.training.curriculum import PHASES, WORDS, learning_rate, phase_at, pixels, shown
from sightline.training.pretrain import ReferenceTrainer, Settings, curriculum_for
from sightline.world.corpus import sentences
from sightline.world.render import render
from sightline.world.scenes import Item, Scene, sample

SETTINGS = Settings(
    warmup_steps=3, steps=3, batch=2, warmup_lr=1e-3, lr=1e-3, seed=0, validate_every=3, validation_scenes=2
)


@pytest.fixture(scope="module")
def tokenizer():
    return reference.build_tokenizer(sentences(300))


def test_training_sequences_are_what_the_processor_makes(tokenizer):
    """Otherwise the model would be trained on one prompt and asked with another."""
    processor, scene = reference.build_processor(tokenizer), sample(1, 2)
    question, answer = "Is there a dog in the image?", "No."
    turns = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]},
        {"role": "assistant", "content": [{"type": "text", "text": answer}]},
    ]
    inputs = processor(text=processor.apply_chat_template(turns), images=[render(scene)], return_tensors="np")
    packed = curriculum_for(tokenizer).pack([(question, answer)])
    ids = inputs["input_ids"][0].tolist()
    newline = tokenizer("\n", add_special_tokens=False).input_ids
    assert packed.ids_T.tolist() + newline == ids
    assert tokenizer.decode(packed.target_A) == " No.<end_of_utterance>"
    np.testing.assert_allclose(inputs["pixel_values"][0, 0], pixels([scene])[0], atol=1e-6)


def test_any_text_survives_the_tokenizer(tokenizer):
    text = "Zażółć gęślą jaźń: 3 zebras?"
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False).input_ids) == text


def test_head_sizes_are_those_fast_kernels_know(tokenizer):
    config = reference.build_model(tokenizer, seed=0).config
    assert config.text_config.head_dim == 32
    assert config.vision_config.hidden_size // config.vision_config.num_attention_heads == 32
    assert config.text_config.num_key_value_heads < config.text_config.num_attention_heads


def test_phases_follow_each_other():
    names = [phase_at(step, 100).name for step in (0, 24, 25, 47, 48, 63, 64, 83, 84, 99)]
    assert names == [phase.name for phase in PHASES for _ in "12"]
    assert PHASES[-1].until == 1.0


def test_the_learning_rate_rises_then_follows_the_phases():
    rates = [learning_rate(step, 1000) for step in (0, 29, 249, 250, 479, 480, 640, 999)]
    expected = [1 / 30, 1.0 - 0.18 * 29 / 250, 0.82, 0.82, 0.4, 1.0, 0.8, 0.02]
    np.testing.assert_allclose(rates, expected, atol=5e-3)


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
        trainer.warm_up()
        trainer.train()
        return model.state_dict(), kept

    (first, kept), (second, _) = trained(), trained()
    assert kept == [1]
    assert all(torch.equal(first[name], second[name]) for name in first)
