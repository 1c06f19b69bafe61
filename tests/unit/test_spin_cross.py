"""SPIN on cross-attention: tiny random Mllama and encoder-decoder models, as transformers has them."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch

from sightline.errors import InterventionError, UnknownFamilyError
from sightline.interventions.spin_cross import CrossAttentionSpin
from sightline.models.cross_attention import cross_attention

STEPS = {"max_new_tokens": 5, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}


def spread(model: Any, attention: str) -> Any:
    """Weights far enough from zero that heads differ, and open gates (Mllama starts with them shut)."""
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(0.0, 0.2)
            elif "gate" in name:
                parameter.fill_(1.0)
    model.set_attn_implementation(attention)
    return model.eval()


@cache
def mllama(attention: str = "sdpa") -> Any:
    from transformers import MllamaConfig, MllamaForConditionalGeneration

    text = {
        "vocab_size": 64,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "cross_attention_layers": [1, 3],
        "max_position_embeddings": 128,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    }
    vision = {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_global_layers": 1,
        "attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
        "max_num_tiles": 2,
        "supported_aspect_ratios": [[1, 1], [1, 2], [2, 1]],
        "vision_output_dim": 16 * 2,
        "intermediate_layers_indices": [0],
    }
    config = MllamaConfig(vision_config=vision, text_config=text, image_token_index=63)
    return spread(MllamaForConditionalGeneration(config), attention)


@cache
def captioner(attention: str = "sdpa", tower: str = "vit") -> Any:
    from transformers import (
        GPT2Config,
        SwinConfig,
        VisionEncoderDecoderConfig,
        VisionEncoderDecoderModel,
        ViTConfig,
    )

    if tower == "vit":
        encoder: Any = ViTConfig(
            hidden_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=48,
            image_size=28,
            patch_size=14,
        )
    else:
        encoder = SwinConfig(
            image_size=28, patch_size=7, embed_dim=32, depths=[1], num_heads=[2], window_size=2
        )
    decoder = GPT2Config(
        vocab_size=64,
        n_embd=32,
        n_layer=2,
        n_head=4,
        n_positions=64,
        add_cross_attention=True,
        is_decoder=True,
        bos_token_id=1,
        eos_token_id=2,
    )
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    config.decoder_start_token_id, config.pad_token_id = 1, 0
    return spread(VisionEncoderDecoderModel(config), attention)


def mllama_inputs(lengths: list[int]) -> dict[str, torch.Tensor]:
    """Left-padded prompts, each with one image of one or two tiles at its start."""
    longest, generator = max(lengths), torch.Generator().manual_seed(0)
    ids = torch.zeros(len(lengths), longest, dtype=torch.long)
    tiles = torch.zeros(len(lengths), longest, 1, 2, dtype=torch.long)
    for b, length in enumerate(lengths):
        text = torch.randint(3, 60, (20,), generator=generator)[: length - 1]
        ids[b, longest - length :] = torch.cat([torch.tensor([63]), text])
        tiles[b, longest - length :, 0, : 1 + b % 2] = 1
    ratios = torch.tensor([[1 + b % 2] for b in range(len(lengths))])
    return {
        "input_ids": ids,
        "attention_mask": (ids > 0).long(),
        "pixel_values": torch.randn(len(lengths), 1, 2, 3, 28, 28, generator=generator),
        "aspect_ratio_ids": ratios,
        "aspect_ratio_mask": torch.tensor([[[1, b % 2]] for b in range(len(lengths))]),
        "cross_attention_mask": tiles,
    }


def generated(
    model: Any, inputs: dict[str, torch.Tensor], spin: CrossAttentionSpin | None, **more: Any
) -> Any:
    """Sequences and their logits, with or without SPIN."""

    def run() -> Any:
        out = model.generate(**inputs, **(STEPS | more), output_logits=True, return_dict_in_generate=True)
        return out.sequences, torch.stack(out.logits, 1)

    with torch.inference_mode():
        if spin is None:
            return run()
        with spin.attached(model):
            return run()


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("mode", ["paper", "released"])
def test_mllama_rows_do_not_depend_on_neighbours_or_padding(attention: str, mode: Any):
    model, spin = mllama(attention), CrossAttentionSpin(0.5, 0.0, mode=mode)
    inputs = mllama_inputs([6, 9, 4])
    plain_ids, plain_logits = generated(model, inputs, None)
    ids, logits = generated(model, inputs, spin)
    assert not torch.allclose(logits, plain_logits, atol=1e-3)
    for b, length in enumerate([6, 9, 4]):
        row = {name: tensor[b : b + 1] for name, tensor in inputs.items()}
        for name in ("input_ids", "attention_mask", "cross_attention_mask"):
            row[name] = row[name][:, -length:]
        alone_ids, alone_logits = generated(model, row, spin)
        assert torch.equal(alone_ids[0, -5:], ids[b, -5:])
        torch.testing.assert_close(alone_logits[0], logits[b], atol=1e-4, rtol=1e-3)
    back_ids, back_logits = generated(model, inputs, None)
    assert torch.equal(back_ids, plain_ids)
    assert torch.equal(back_logits, plain_logits)


@pytest.mark.parametrize("mode", ["paper", "released"])
def test_each_query_has_its_own_heads_at_once_or_step_by_step(mode: Any):
    model = captioner()
    pixels = torch.randn(3, 3, 28, 28, generator=torch.Generator().manual_seed(2))
    ids, logits = generated(model, {"pixel_values": pixels}, CrossAttentionSpin(0.5, mode=mode))
    every = CrossAttentionSpin(0.5, mode=mode, every_query=True)
    with torch.inference_mode(), every.attached(model):
        forced = model(pixel_values=pixels, decoder_input_ids=ids[:, :-1]).logits
    torch.testing.assert_close(forced, logits, atol=1e-4, rtol=1e-3)
    with torch.inference_mode():
        assert not torch.allclose(
            model(pixel_values=pixels, decoder_input_ids=ids[:, :-1]).logits, forced, atol=1e-3
        )


def test_gates_are_those_of_whole_maps():
    model = captioner("eager")
    pixels = torch.randn(2, 3, 28, 28, generator=torch.Generator().manual_seed(3))
    start = torch.ones(2, 1, dtype=torch.long)
    seen: list[torch.Tensor] = []
    block = model.decoder.transformer.h[0].crossattention

    def note(module: Any, args: tuple[torch.Tensor, ...]) -> None:
        seen.append(args[0].view(2, 4, 8))

    handle = block.c_proj.register_forward_pre_hook(note)
    with torch.inference_mode():
        plain = model(pixel_values=pixels, decoder_input_ids=start, output_attentions=True)
        with CrossAttentionSpin(0.5, 0.25, layers=[0]).attached(model):
            model(pixel_values=pixels, decoder_input_ids=start)
    handle.remove()
    on_patches_BH = plain.cross_attentions[0][:, :, 0, 1:].sum(-1)
    for b in range(2):
        lowest = on_patches_BH[b].argsort()[:2].tolist()
        factors = torch.tensor([0.25 if head in lowest else 1.0 for head in range(4)])
        torch.testing.assert_close(seen[1][b], seen[0][b] * factors[:, None])


def test_beams_run_and_an_image_less_tower_token_ranks_by_logits_only():
    pixels = {"pixel_values": torch.randn(2, 3, 28, 28)}
    swin = captioner(tower="swin")
    with pytest.raises(InterventionError, match="mode released"):
        CrossAttentionSpin().check(swin)
    ids, _ = generated(swin, pixels, CrossAttentionSpin(0.5, mode="released"), num_beams=3)
    alone = {"pixel_values": pixels["pixel_values"][1:]}
    again, _ = generated(swin, alone, CrossAttentionSpin(0.5, mode="released"), num_beams=3)
    assert ids[1].tolist() == again[0].tolist()


def test_what_cannot_work_is_refused():
    model = mllama()
    for spin, words in (
        (CrossAttentionSpin(2.0), "share k"),
        (CrossAttentionSpin(alpha=float("nan")), "finite alpha"),
        (CrossAttentionSpin(layers=[2]), "layers from 0 to 1"),
    ):
        with pytest.raises(InterventionError, match=words), spin.attached(model):
            pass
    with pytest.raises(InterventionError, match="no call"), CrossAttentionSpin().attached(model):
        pass
    with pytest.raises(UnknownFamilyError, match="mllama"):
        cross_attention(model.model.language_model)
