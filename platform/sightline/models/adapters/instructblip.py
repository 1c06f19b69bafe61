"""InstructBLIP (Vicuna): a Q-Former reads the image *with the question* into 32 tokens.

The image features depend on the question, so only equal questions share them, and there
is no chat template: the prompt is the question itself, after the image tokens.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any

from sightline.errors import ModelError
from sightline.models.adapters.base import Adapter
from sightline.models.encoding import EncodedRow, ImageInputs
from sightline.models.prompts import Prompt
from sightline.models.template import Frame

if TYPE_CHECKING:
    import torch


class InstructBlipAdapter(Adapter):
    """Only checkpoints with a decoder-only text model (Vicuna); Flan-T5 is refused."""

    model_types = ("instructblip",)
    supports_shared_prefix = False
    takes_position_ids = False
    image_tensors = ("pixel_values",)

    def model_class(self, config: Any) -> Any:
        from transformers import InstructBlipForConditionalGeneration

        if not config.use_decoder_only_language_model or config.text_config.model_type != "llama":
            raise ModelError(
                expected="InstructBLIP with a Vicuna (Llama) text model",
                got=config.text_config.model_type,
                hint="the Flan-T5 variants are encoder-decoders and have no single token sequence",
            )
        return InstructBlipForConditionalGeneration

    def build_processor(self, source: str, **from_pretrained: Any) -> Any:
        from transformers import InstructBlipProcessor
        from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

        images = BlipImageProcessorPil.from_pretrained(source, **from_pretrained)
        return InstructBlipProcessor.from_pretrained(source, image_processor=images, **from_pretrained)

    def vision_blocks(self, model: Any) -> Any:
        return model.vision_model.encoder.layers

    def vision_width(self, model: Any) -> int:
        return model.config.vision_config.hidden_size

    def decoder(self, model: Any) -> Any:
        return model.language_model.model

    def lm_head(self, model: Any) -> Any:
        return model.language_model.lm_head

    def image_token_id(self, processor: Any) -> int:
        return processor.tokenizer.convert_tokens_to_ids(str(processor.image_token))

    def derive_frame(self, processor: Any, with_image: bool) -> Frame:
        return Frame(head="", tail="", lead=" ", end=processor.tokenizer.eos_token)

    def expand(self, processor: Any, head: str, image: ImageInputs) -> str:
        return head

    def leading_ids(self, processor: Any, image: ImageInputs) -> list[int]:
        return [self.image_token_id(processor)] * image.num_tokens

    def text_inputs(self, processor: Any, prompt: Prompt) -> dict[str, list[int]]:
        return {"qformer_input_ids": processor.qformer_tokenizer(prompt.text)["input_ids"]}

    def image_inputs(self, processor: Any, image: Any) -> ImageInputs:
        pixels = processor.image_processor([image], return_tensors="pt")["pixel_values"][0]
        count = processor.num_query_tokens
        return ImageInputs({"pixel_values": pixels}, str(processor.image_token) * count, count)

    def image_key(self, row: EncodedRow) -> Hashable:
        return id(row.image), tuple(row.text_inputs["qformer_input_ids"])

    def collate_images(self, images: Sequence[ImageInputs]) -> dict[str, torch.Tensor]:
        import torch

        return {"pixel_values": torch.stack([image.tensors["pixel_values"] for image in images])}

    def sequence_inputs(self, rows: Sequence[EncodedRow], ids_BT: torch.Tensor) -> dict[str, torch.Tensor]:
        """The Q-Former's text, always padded on the right: its positions are absolute."""
        from sightline.models.collate import pad

        texts = [row.text_inputs["qformer_input_ids"] for row in rows]
        return {
            "qformer_input_ids": pad(texts, 0, "right"),
            "qformer_attention_mask": pad([[1] * len(text) for text in texts], 0, "right"),
        }

    def encode_images(self, model: Any, rows: Sequence[EncodedRow]) -> list[torch.Tensor]:
        import torch

        images = [row.image for row in rows if row.image is not None]
        inputs = self.collate_images(images) | self.sequence_inputs(rows, torch.empty(0))
        inputs = {name: tensor.to(model.device) for name, tensor in inputs.items()}
        inputs["pixel_values"] = inputs["pixel_values"].to(model.dtype)
        return list(model.get_image_features(**inputs, return_dict=True).pooler_output)
