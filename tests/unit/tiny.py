"""Tiny random instances of real VLM classes, with real processors: no download, no mocks.

`tiny_vlm(family)` builds one of FAMILIES: transformers' own config, model and processor
classes, a few layers of width 64, fp32 weights from a fixed seed, and a byte-level BPE
tokenizer trained on a few sentences. Chat templates are those of the public checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from sightline.models.prompts import Prompt
from sightline.models.vlm import Vlm

WORDS = (
    "Is there a dog in the image? Yes, there is a dog. No. What color is the bus? Red. Blue. "
    "Describe this image in detail. A cat and a couch are in the kitchen. How many people? Two. "
    "Reference: A bus is on the street. User: Assistant: USER: ASSISTANT: system user assistant"
)
LLAVA_TEMPLATE = (
    "{% for message in messages %}{{ message['role'].upper() + ': ' }}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}"
    "{% endfor %}{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{{ content['text'] + ' ' }}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
QWEN_TEMPLATE = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "<|im_start|>{{ message['role'] }}\n{% for content in message['content'] %}"
    "{% if content['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif 'text' in content %}{{ content['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SMOLVLM_TEMPLATE = (
    "<|im_start|>{% for message in messages %}{{message['role'] | capitalize}}"
    "{% if message['content'][0]['type'] == 'image' %}{{':'}}{% else %}{{': '}}{% endif %}"
    "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{line['text']}}"
    "{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n"
    "{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
TEXT = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": False,
}
CLIP = {
    "model_type": "clip_vision_model",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 7,
}


def tiny_tokenizer(*special: str, eos: str, bos: str | None = None, **named: str) -> PreTrainedTokenizerFast:
    """Byte-level BPE; with `bos`, every sequence begins with it, as Llama's do."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokens = [*special, "<pad>"]
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=tokens,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([WORDS], trainer)
    if bos is not None:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, tokenizer.token_to_id(bos))]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=eos,
        bos_token=bos,
        pad_token="<pad>",
        extra_special_tokens=named,
    )


def _text_config(tokenizer: Any, model_type: str = "llama") -> dict[str, Any]:
    ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    return TEXT | ids | {"model_type": model_type, "vocab_size": len(tokenizer), "bos_token_id": None}


def _tiled_tokenizer() -> PreTrainedTokenizerFast:
    tiles = [f"<row_{r}_col_{c}>" for r in range(1, 4) for c in range(1, 4)]
    return tiny_tokenizer(
        "<|im_start|>",
        "<end_of_utterance>",
        "<fake_token_around_image>",
        "<image>",
        "<global-img>",
        "<video>",
        *tiles,
        eos="<end_of_utterance>",
        image_token="<image>",
        fake_image_token="<fake_token_around_image>",
        global_image_token="<global-img>",
        end_of_utterance_token="<end_of_utterance>",
        video_token="<video>",
    )


def _tiled_config(tokenizer: Any) -> dict[str, Any]:
    vision = {k: v for k, v in CLIP.items() if k != "model_type"}
    return {
        "image_token_id": tokenizer.convert_tokens_to_ids("<image>"),
        "scale_factor": 2,
        "pad_token_id": tokenizer.pad_token_id,
        "vision_config": vision,
        "text_config": _text_config(tokenizer),
    }


def _smolvlm() -> tuple[Any, Any]:
    from transformers import SmolVLMConfig, SmolVLMForConditionalGeneration, SmolVLMProcessor
    from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil
    from transformers.models.smolvlm.video_processing_smolvlm import SmolVLMVideoProcessor

    tokenizer = _tiled_tokenizer()
    edge = {"longest_edge": 28}
    images = SmolVLMImageProcessorPil(size={"longest_edge": 56}, max_image_size=edge, do_image_splitting=True)
    videos = SmolVLMVideoProcessor(size=edge, max_image_size=edge)
    processor = SmolVLMProcessor(images, tokenizer, videos, image_seq_len=4, chat_template=SMOLVLM_TEMPLATE)
    return SmolVLMForConditionalGeneration(SmolVLMConfig(**_tiled_config(tokenizer))), processor


def _idefics3() -> tuple[Any, Any]:
    from transformers import Idefics3Config, Idefics3ForConditionalGeneration, Idefics3Processor
    from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

    tokenizer = _tiled_tokenizer()
    edge = {"longest_edge": 28}
    images = Idefics3ImageProcessorPil(size={"longest_edge": 56}, max_image_size=edge)
    processor = Idefics3Processor(images, tokenizer, image_seq_len=4, chat_template=SMOLVLM_TEMPLATE)
    return Idefics3ForConditionalGeneration(Idefics3Config(**_tiled_config(tokenizer))), processor


def _llava() -> tuple[Any, Any]:
    from transformers import LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    tokenizer = tiny_tokenizer("<s>", "</s>", "<image>", bos="<s>", eos="</s>", image_token="<image>")
    size = {"height": 28, "width": 28}
    images = CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size=size)
    processor = LlavaProcessor(
        images,
        tokenizer,
        patch_size=7,
        vision_feature_select_strategy="default",
        chat_template=LLAVA_TEMPLATE,
        num_additional_image_tokens=1,
    )
    config = LlavaConfig(
        vision_config=CLIP,
        text_config=_text_config(tokenizer),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=16,
    )
    return LlavaForConditionalGeneration(config), processor


def _llava_next() -> tuple[Any, Any]:
    from transformers import LlavaNextConfig, LlavaNextForConditionalGeneration, LlavaNextProcessor
    from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil

    tokenizer = tiny_tokenizer("<s>", "</s>", "<image>", bos="<s>", eos="</s>", image_token="<image>")
    pinpoints = [[28, 56], [56, 28], [56, 56]]
    size = {"height": 28, "width": 28}
    images = LlavaNextImageProcessorPil(
        size={"shortest_edge": 28}, crop_size=size, image_grid_pinpoints=pinpoints
    )
    processor = LlavaNextProcessor(
        images,
        tokenizer,
        patch_size=7,
        vision_feature_select_strategy="default",
        chat_template=LLAVA_TEMPLATE,
        num_additional_image_tokens=1,
    )
    config = LlavaNextConfig(
        vision_config=CLIP,
        text_config=_text_config(tokenizer),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        image_grid_pinpoints=pinpoints,
        image_seq_length=16,
    )
    return LlavaNextForConditionalGeneration(config), processor


_QWEN_VISION = {
    "depth": 2,
    "num_heads": 2,
    "patch_size": 14,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
}


def _qwen_parts(processor_class: Any) -> tuple[dict[str, Any], Any]:
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
    from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor

    named = {"image_token": "<|image_pad|>", "video_token": "<|video_pad|>"}
    marks = ("<|vision_start|>", "<|vision_end|>")
    tokenizer = tiny_tokenizer(
        "<|endoftext|>", "<|im_start|>", "<|im_end|>", *marks, *named.values(), eos="<|im_end|>", **named
    )
    images = Qwen2VLImageProcessorPil(size={"shortest_edge": 28 * 28, "longest_edge": 28 * 28 * 6})
    processor = processor_class(images, tokenizer, Qwen2VLVideoProcessor(), chat_template=QWEN_TEMPLATE)
    ids = {
        f"{name}_token_id": tokenizer.convert_tokens_to_ids(token)
        for name, token in {
            "image": "<|image_pad|>",
            "video": "<|video_pad|>",
            "vision_start": "<|vision_start|>",
            "vision_end": "<|vision_end|>",
        }.items()
    }
    text = _text_config(tokenizer, "") | {
        "rope_parameters": {"rope_type": "default", "mrope_section": [2, 3, 3]}
    }
    del text["model_type"]
    return ids | {"text_config": text | {"rope_theta": 10000.0}}, processor


def _qwen2_vl() -> tuple[Any, Any]:
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration, Qwen2VLProcessor

    parts, processor = _qwen_parts(Qwen2VLProcessor)
    vision = _QWEN_VISION | {"embed_dim": 32, "hidden_size": 64, "mlp_ratio": 2}
    return Qwen2VLForConditionalGeneration(Qwen2VLConfig(**parts, vision_config=vision)), processor


def _qwen2_5_vl() -> tuple[Any, Any]:
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor

    parts, processor = _qwen_parts(Qwen2_5_VLProcessor)
    vision = _QWEN_VISION | {
        "hidden_size": 32,
        "out_hidden_size": 64,
        "intermediate_size": 64,
        "window_size": 56,
        "fullatt_block_indexes": [1],
    }
    return Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(**parts, vision_config=vision)), processor


def _instructblip() -> tuple[Any, Any]:
    from transformers import InstructBlipConfig, InstructBlipForConditionalGeneration, InstructBlipProcessor
    from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

    tokenizer = tiny_tokenizer("<s>", "</s>", "<image>", bos="<s>", eos="</s>")
    qformer = tiny_tokenizer("[CLS]", "[SEP]", bos="[CLS]", eos="[SEP]")
    images = BlipImageProcessorPil(size={"height": 28, "width": 28})
    processor = InstructBlipProcessor(images, tokenizer, qformer, num_query_tokens=4)
    config = InstructBlipConfig(
        vision_config={k: v for k, v in CLIP.items() if k != "model_type"},
        qformer_config={
            "vocab_size": len(qformer),
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 64,
            "encoder_hidden_size": 32,
        },
        text_config=_text_config(tokenizer),
        num_query_tokens=4,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    return InstructBlipForConditionalGeneration(config), processor


_BUILDERS: dict[str, Callable[[], tuple[Any, Any]]] = {
    "smolvlm": _smolvlm,
    "idefics3": _idefics3,
    "llava": _llava,
    "llava_next": _llava_next,
    "qwen2_vl": _qwen2_vl,
    "qwen2_5_vl": _qwen2_5_vl,
    "instructblip": _instructblip,
}
FAMILIES = tuple(_BUILDERS)


@cache
def tiny_vlm(family: str, attention: str = "sdpa") -> Vlm:
    """One family's tiny model: shared between tests, so do not train it (use `fresh_vlm`)."""
    return fresh_vlm(family, attention)


def fresh_vlm(family: str, attention: str = "sdpa") -> Vlm:
    """The same, built anew: yours to change."""
    torch.manual_seed(0)
    model, processor = _BUILDERS[family]()
    # Default inits are so small that all logits nearly tie; spread them, so that equality means something.
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(0.0, 0.5 if "embed" in name else 0.15)
    model.set_attn_implementation(attention)
    model.generation_config.eos_token_id = processor.tokenizer.eos_token_id
    model.generation_config.pad_token_id = processor.tokenizer.pad_token_id
    return Vlm(model.eval(), processor)


def random_image(seed: int, width: int = 40, height: int = 40) -> Image.Image:
    """Noise, RGB, (height, width)."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def sample_prompts() -> list[Prompt]:
    """Two images of different shapes; questions with and without context, of several lengths."""
    first, second = random_image(1, 50, 40), random_image(2, 30, 60)
    context = "A bus is on the street. A dog is left of it."
    return [
        Prompt(first, "Is there a dog in the image?"),
        Prompt(second, "What color is the bus?", context),
        Prompt(first, "Describe this image in detail.", context),
        Prompt(first, "Is there a cat in the image?"),
        Prompt(second, "How many people?"),
    ]
