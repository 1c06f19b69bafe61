"""InstructBLIP (Vicuna): a Q-Former reads the image *with the question* into 32 tokens.

The image features depend on the question, so only equal questions share them, and there
is no chat template: the prompt is the question itself, after the image tokens.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any

from sightline.errors import ModelError
from sightline.models.adapters.base import Adapter, SeenImage
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
    class_tokens = 1
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

    def see_images(self, model: Any, rows: Sequence[EncodedRow]) -> list[SeenImage]:
        """The tower once for each image, the Q-Former once for each row.

        transformers' `get_image_features` in two halves: it would run the tower for every
        question again.
        """
        import torch

        images = {id(row.image): row.image for row in rows if row.image is not None}
        places = {key: place for place, key in enumerate(images)}
        pixels = self.collate_images(list(images.values()))["pixel_values"].to(model.device, model.dtype)
        states_ISW = model.vision_model(pixel_values=pixels, return_dict=True).last_hidden_state
        states_RSW = states_ISW[[places[id(row.image)] for row in rows]]
        texts = self.sequence_inputs(rows, torch.empty(0))
        queries_RQW = model.query_tokens.expand(len(rows), -1, -1)
        text_mask_RT = texts["qformer_attention_mask"].to(model.device)
        query_mask_RQ = torch.ones(queries_RQW.shape[:2], dtype=torch.long, device=model.device)
        read_RQW = model.qformer(
            input_ids=texts["qformer_input_ids"].to(model.device),
            attention_mask=torch.cat([query_mask_RQ, text_mask_RT], dim=1),
            query_embeds=queries_RQW,
            encoder_hidden_states=states_RSW,
            encoder_attention_mask=torch.ones(states_RSW.shape[:2], dtype=torch.long, device=model.device),
            return_dict=True,
        ).last_hidden_state[:, : queries_RQW.shape[1]]
        features_RPD = model.language_projection(read_RQW)
        # The class token comes first.
        return [SeenImage(f, p[1:]) for f, p in zip(features_RPD, states_RSW, strict=True)]
