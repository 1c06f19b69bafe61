"""The reference VLM's construction: transformers' own SmolVLM classes at toy size.

Built here, trained by `jobs/pretrain.py`, shipped in `sightline/world/reference/`. It
has the parts of SmolVLM2-2.2B (SigLIP tower, pixel shuffle, Llama decoder with tied
embeddings), plus grouped-query attention, so it takes the code path of the real ones.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerFast, SmolVLMForConditionalGeneration, SmolVLMProcessor

from sightline.world.scenes import IMAGE_SIZE

PATCH, SCALE = 12, 2
IMAGE_TOKENS = (IMAGE_SIZE // PATCH // SCALE) ** 2
"""Image tokens a picture: 8 x 8 patches, shuffled 2 x 2 into 16."""

_END = "<end_of_utterance>"
_SPECIAL = ("<|im_start|>", _END, "<fake_token_around_image>", "<image>", "<global-img>", "<video>", "<pad>")
_VOCABULARY = 640

# SmolVLM2's template, with the image before the text of the one user turn.
_CHAT_TEMPLATE = (
    "<|im_start|>{% for message in messages %}{{ message['role'] | capitalize }}"
    "{% if message['content'][0]['type'] == 'image' %}{{ ':' }}{% else %}{{ ': ' }}{% endif %}"
    "{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}"
    "{% elif part['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}"
    "<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)


def packaged_folder() -> Path:
    """Where the shipped reference VLM lies."""
    return Path(str(files("sightline.world"))) / "reference"


def build_tokenizer(corpus: Iterable[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer trained on the world's language; any text stays encodable."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCABULARY,
        special_tokens=list(_SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|im_start|>",
        eos_token=_END,
        pad_token="<pad>",
        padding_side="left",
        extra_special_tokens={
            "image_token": "<image>",
            "fake_image_token": "<fake_token_around_image>",
            "global_image_token": "<global-img>",
            "end_of_utterance_token": _END,
            "video_token": "<video>",
        },
    )


def build_processor(tokenizer: PreTrainedTokenizerFast) -> SmolVLMProcessor:
    """A real SmolVLMProcessor for 96-pixel pictures, one tile each."""
    from transformers import SmolVLMProcessor
    from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil
    from transformers.models.smolvlm.video_processing_smolvlm import SmolVLMVideoProcessor

    edge = {"longest_edge": IMAGE_SIZE}
    images = SmolVLMImageProcessorPil(size=edge, max_image_size=edge, do_image_splitting=False)
    videos = SmolVLMVideoProcessor(size=edge, max_image_size=edge)
    return SmolVLMProcessor(
        images, tokenizer, videos, image_seq_len=IMAGE_TOKENS, chat_template=_CHAT_TEMPLATE
    )


def build_model(tokenizer: PreTrainedTokenizerFast, *, seed: int) -> SmolVLMForConditionalGeneration:
    """The untrained model: about 2.8 M parameters, head size 32 in both towers, fp32."""
    import torch
    from transformers import SmolVLMConfig, SmolVLMForConditionalGeneration

    torch.manual_seed(seed)
    config = SmolVLMConfig(
        image_token_id=tokenizer.get_vocab()["<image>"],
        scale_factor=SCALE,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        vision_config={
            "hidden_size": 128,
            "intermediate_size": 512,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "image_size": IMAGE_SIZE,
            "patch_size": PATCH,
        },
        text_config={
            "model_type": "llama",
            "vocab_size": len(tokenizer),
            "hidden_size": 192,
            "intermediate_size": 512,
            "num_hidden_layers": 5,
            "num_attention_heads": 6,
            "num_key_value_heads": 3,
            "head_dim": 32,
            "max_position_embeddings": 1024,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
            "tie_word_embeddings": True,
        },
    )
    model = SmolVLMForConditionalGeneration(config)
    _spread(model.model.vision_model, model.model.connector)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model


def _spread(*towers: nn.Module) -> None:
    """Initialise by fan-in: transformers' 0.02 is meant for widths of 1,000 and leaves 128 nearly blind."""
    from torch import nn

    for module in (module for tower in towers for module in tower.modules()):
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.3)


def save(model: SmolVLMForConditionalGeneration, folder: Path) -> None:
    """Save the weights in bf16 as a plain Hugging Face folder; `model` itself stays in fp32."""
    import copy

    import torch

    narrow = copy.deepcopy(model)
    torch.nn.Module.to(narrow, torch.bfloat16)  # transformers hides the dtype overload from type checkers
    narrow.save_pretrained(folder)
