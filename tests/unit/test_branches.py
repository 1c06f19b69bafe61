"""Packed branches give the logits of plain, separate forwards."""

from __future__ import annotations

import pytest
import torch
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
)

from sightline.training import branches

IMAGE, PAD = 90, 0


def text_config() -> LlamaConfig:
    return LlamaConfig(
        vocab_size=97,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        pad_token_id=PAD,
    )


def smolvlm(attention: str) -> tuple[torch.nn.Module, torch.Tensor, int]:
    """A tiny random SmolVLM, one image's pixels, and how many image tokens it takes."""
    vision = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 24,
        "patch_size": 6,
    }
    config = SmolVLMConfig(
        text_config=text_config(), vision_config=vision, scale_factor=2, image_token_id=IMAGE
    )
    config._attn_implementation = attention
    return SmolVLMForConditionalGeneration._from_config(config), torch.randn(1, 1, 3, 24, 24), 4


def llava(attention: str) -> tuple[torch.nn.Module, torch.Tensor, int]:
    vision = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=24,
        patch_size=12,
    )
    config = LlavaConfig(text_config=text_config(), vision_config=vision, image_token_index=IMAGE)
    config._attn_implementation = attention
    return LlavaForConditionalGeneration._from_config(config), torch.randn(1, 3, 24, 24), 4


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", [smolvlm, llava])
def test_every_branch_equals_its_own_forward(family, attention):
    torch.manual_seed(0)
    model, pixels, image_tokens = family(attention)
    model = model.eval()
    image = [3, *[IMAGE] * image_tokens, 4]
    rows = [([*image, 11, 12, 13], [[21, 22], [31, 32, 33, 34], [41]]), (image, [[51, 52, 53]])]
    batch = branches.collate([branches.pack(prefix, answers) for prefix, answers in rows], pad_id=PAD)
    pixels_B = torch.cat([pixels, 0.5 * pixels])
    with torch.no_grad():
        hidden = model.model(
            input_ids=batch.ids_BT,
            position_ids=batch.position_BT,
            attention_mask=batch.mask(torch.float32),
            pixel_values=pixels_B,
            use_cache=False,
        ).last_hidden_state
        packed_S = branches.sum_by_branch(branches.token_logprobs(hidden, model.lm_head, batch), batch)
        plain = []
        for (prefix, answers), pixel in zip(rows, pixels_B, strict=True):
            for answer in answers:
                ids = torch.tensor([[*prefix, *answer]])
                logits = model(input_ids=ids, pixel_values=pixel[None], use_cache=False).logits[0]
                logprobs = logits.log_softmax(-1)[len(prefix) - 1 : -1]
                plain.append(logprobs.gather(1, torch.tensor(answer)[:, None]).sum())
    torch.testing.assert_close(packed_S, torch.stack(plain), atol=1e-5, rtol=1e-5)
    assert batch.row_S.tolist() == [0, 0, 0, 1]
    assert branches.count_by_branch(batch).tolist() == [2, 4, 1, 3]


def test_positions_sources_and_targets_by_hand():
    packed = branches.pack([1, 2, 3], [[7, 8], [9]])
    assert packed.position_T.tolist() == [0, 1, 2, 3, 4, 3]
    assert packed.source_A.tolist() == [2, 3, 2]
    assert packed.target_A.tolist() == [7, 8, 9]
    assert packed.branch_A.tolist() == [1, 1, 2]


def test_only_the_answer_part_of_a_branch_is_scored():
    packed = branches.pack([1, 2], [[5, 6, 7], [8, 9]], scored_from=[2, 1])
    assert packed.target_A.tolist() == [7, 9]
    assert packed.source_A.tolist() == [3, 5]


def test_no_row_of_the_mask_is_empty_and_padding_is_unseen():
    batch = branches.collate([branches.pack([1, 2], [[5]]), branches.pack([1], [[5], [6], [7]])], pad_id=PAD)
    seen = branches.visible(batch.branch_BT)[:, 0]
    assert seen.any(-1).all()
    assert not seen[0, :3, 3].any()
    assert seen[1].int().tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [1, 0, 1, 0], [1, 0, 0, 1]]


def test_an_empty_prefix_is_refused():
    with pytest.raises(ValueError, match="at least one token"):
        branches.pack([], [[1]])
