"""The architectures of public checkpoints that our configs name, written down by hand.

So `--dry-run` and the tests can build them on the meta device without a network. They are
the `config.json` of each checkpoint as far as it decides shapes; weights are always loaded
with the checkpoint's own file.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def _smolvlm2_2b() -> Any:
    from transformers import SmolVLMConfig

    return SmolVLMConfig(
        image_token_id=49190,
        pad_token_id=2,
        scale_factor=3,
        tie_word_embeddings=False,
        vision_config={
            "hidden_size": 1152,
            "intermediate_size": 4304,
            "num_hidden_layers": 27,
            "num_attention_heads": 16,
            "image_size": 384,
            "patch_size": 14,
        },
        text_config={
            "model_type": "llama",
            "vocab_size": 49280,
            "hidden_size": 2048,
            "intermediate_size": 8192,
            "num_hidden_layers": 24,
            "num_attention_heads": 32,
            "num_key_value_heads": 32,
            "head_dim": 64,
            "max_position_embeddings": 8192,
            "rms_norm_eps": 1e-5,
            "rope_parameters": {"rope_type": "default", "rope_theta": 130000.0},
            "tie_word_embeddings": False,
        },
    )


def _llava15_7b() -> Any:
    from transformers import LlavaConfig

    return LlavaConfig(
        image_token_index=32000,
        image_seq_length=576,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        vision_config={
            "model_type": "clip_vision_model",
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "image_size": 336,
            "patch_size": 14,
            "projection_dim": 768,
        },
        text_config={
            "model_type": "llama",
            "vocab_size": 32064,
            "hidden_size": 4096,
            "intermediate_size": 11008,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 32,
            "max_position_embeddings": 4096,
            "rms_norm_eps": 1e-5,
            "tie_word_embeddings": False,
        },
    )


def _qwen2_5_vl_7b() -> Any:
    from transformers import Qwen2_5_VLConfig

    return Qwen2_5_VLConfig(
        image_token_id=151655,
        video_token_id=151656,
        vision_start_token_id=151652,
        vision_end_token_id=151653,
        tie_word_embeddings=False,
        vision_config={
            "depth": 32,
            "hidden_size": 1280,
            "out_hidden_size": 3584,
            "intermediate_size": 3420,
            "num_heads": 16,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "window_size": 112,
            "fullatt_block_indexes": [7, 15, 23, 31],
        },
        text_config={
            "vocab_size": 152064,
            "hidden_size": 3584,
            "intermediate_size": 18944,
            "num_hidden_layers": 28,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
            "max_position_embeddings": 128000,
            "use_sliding_window": False,
            "rms_norm_eps": 1e-6,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1000000.0,
                "mrope_section": [16, 24, 24],
            },
            "tie_word_embeddings": False,
        },
    )


KNOWN: dict[str, Callable[[], Any]] = {
    "HuggingFaceTB/SmolVLM2-2.2B-Instruct": _smolvlm2_2b,
    "llava-hf/llava-1.5-7b-hf": _llava15_7b,
    "Qwen/Qwen2.5-VL-7B-Instruct": _qwen2_5_vl_7b,
}
"""Hugging Face id -> a function that builds transformers' config of it."""
