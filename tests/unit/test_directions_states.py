"""Hidden states that directions are made of: transformers' own, batch by batch the same; perturbations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny import FAMILIES, fresh_vlm, random_image, sample_prompts, tiny_vlm

from sightline.config.directions import Blur, Brightness, Mask, Noise
from sightline.errors import SpanError
from sightline.interventions.perturb import mask_patches, perturbed, trial_seed
from sightline.models.text_states import caption_states
from sightline.models.vision_states import vision_states

CAPTIONS = ["A dog.", "A cat and a couch are in the kitchen.", "Two people", "A bus is on the street.", "Red"]


def prepared(vlm, *sizes):
    images = [random_image(seed, *size) for seed, size in enumerate(sizes)]
    return [vlm.adapter.image_inputs(vlm.processor, image) for image in images]


@pytest.mark.parametrize("family", FAMILIES)
def test_vision_states_do_not_depend_on_neighbours(family):
    vlm = tiny_vlm(family)
    images = prepared(vlm, (40, 40), (80, 40), (40, 40))
    together = vision_states(vlm, images, embeddings=True)
    for image, states in zip(images, together, strict=True):
        (alone,) = vision_states(vlm, [image])
        torch.testing.assert_close(states[:, 1:], alone, atol=1e-5, rtol=1e-5)
        blocks, width = len(vlm.adapter.vision_blocks(vlm.model)), vlm.adapter.vision_width(vlm.model)
        assert (alone.shape[1], alone.shape[3]) == (blocks, width)


def test_vision_states_are_the_towers_hidden_states():
    vlm = tiny_vlm("llava")
    (image,) = prepared(vlm, (40, 40))
    block = vlm.adapter.vision_blocks(vlm.model)[0]
    before = len(block._forward_hooks)
    (states,) = vision_states(vlm, [image], embeddings=True)
    assert len(block._forward_hooks) == before, "the hooks are gone"
    with torch.no_grad():
        tower = vlm.model.model.vision_tower(image.tensors["pixel_values"][None], output_hidden_states=True)
    torch.testing.assert_close(states[0], torch.stack(tower.hidden_states)[:, 0])


@pytest.mark.parametrize("family", FAMILIES)
def test_caption_states_are_the_models_hidden_states(family):
    """Against one plain forward a caption, at the token before the turn's end."""
    vlm = tiny_vlm(family)
    prompts = sample_prompts()
    released = caption_states(vlm, prompts, CAPTIONS, batch_size=3, released=True)
    paper = caption_states(vlm, prompts, CAPTIONS)
    for i, row in enumerate(vlm.encode(prompts, CAPTIONS)):
        with torch.no_grad():
            outputs = vlm.model(**vlm.collate([row]), output_hidden_states=True)
        told = outputs.language_model_outputs if family == "instructblip" else outputs
        hidden = torch.stack([h[0, -2] for h in told.hidden_states])
        torch.testing.assert_close(released[i], hidden, atol=2e-4, rtol=1e-3)
        torch.testing.assert_close(paper[i, :-1], hidden[1:-1], atol=2e-4, rtol=1e-3)
        last = vlm.adapter.final_norm(vlm.model)(paper[i, -1]).detach()
        torch.testing.assert_close(last, hidden[-1], atol=2e-4, rtol=1e-3)


def test_an_empty_caption_is_refused():
    vlm = tiny_vlm("smolvlm")
    with pytest.raises(SpanError, match="at least one word"):
        caption_states(vlm, sample_prompts()[:1], [""])


# -- perturbations ----------------------------------------------------------------------
def draw(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_masking_as_vti_masks():
    """int(.99 * 64) = 63 patches take their picture's mean colour; one stays as it was."""
    pixels = torch.randn(3, 96, 96, generator=draw(1))
    masked = mask_patches(pixels, patch=12, ratio=0.99, generator=draw())
    patches = masked.unfold(1, 12, 12).unfold(2, 12, 12)  # (C, rows, columns, 12, 12)
    mean = pixels.mean((1, 2))[:, None, None, None, None]
    is_masked = (patches == mean).flatten(3).all(3).all(0)
    assert int(is_masked.sum()) == 63
    kept = ~is_masked
    original = pixels.unfold(1, 12, 12).unfold(2, 12, 12)
    assert torch.equal(patches[:, kept], original[:, kept])
    assert torch.equal(pixels, torch.randn(3, 96, 96, generator=draw(1))), "the picture itself is untouched"


def test_masking_of_tiles_and_of_qwens_rows():
    tiles = torch.randn(2, 3, 28, 28, generator=draw(2))
    masked = mask_patches(tiles, patch=7, ratio=1.0, generator=draw())
    torch.testing.assert_close(masked, tiles.mean((2, 3), keepdim=True).expand_as(tiles))
    rows = torch.randn(8, 3 * 2 * 14 * 14, generator=draw(3))
    masked = mask_patches(rows, patch=14, ratio=0.5, generator=draw())
    changed = (masked != rows).any(1)
    assert int(changed.sum()) == 4
    mean = rows.view(8, 3, -1).mean((0, 2))
    torch.testing.assert_close(masked.view(8, 3, -1)[changed], mean[None, :, None].expand(4, 3, 392))


@pytest.mark.parametrize(
    "how", [Mask(ratio=0.5), Blur(type="blur"), Noise(type="noise"), Brightness(type="brightness")]
)
def test_a_trial_is_settled_by_seed_key_and_number(how):
    vlm, image = fresh_vlm("llava"), random_image(1)
    inputs = vlm.adapter.image_inputs(vlm.processor, image)

    def pixels(seed: int = 1, key: str = "a", trial: int = 0) -> np.ndarray:
        return (
            perturbed(vlm, image, inputs, how, seed=seed, key=key, trial=trial)
            .tensors["pixel_values"]
            .numpy()
        )

    assert np.array_equal(pixels(), pixels())
    assert not np.array_equal(pixels(), inputs.tensors["pixel_values"].numpy())
    for other in (pixels(seed=2), pixels(key="b"), pixels(trial=1)):
        assert not np.array_equal(pixels(), other)


def test_trial_seeds_are_frozen():
    """Directions must not change with a Python or a machine."""
    assert trial_seed(42, "abc", 0) == trial_seed(42, "abc", 0) < 2**63
    assert len({trial_seed(s, k, t) for s in (1, 2) for k in "ab" for t in (0, 1)}) == 8
