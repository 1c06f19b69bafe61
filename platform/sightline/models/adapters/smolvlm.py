"""SmolVLM (1 and 2) and Idefics3: SigLIP tower, pixel shuffle, Llama-like decoder, tiles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sightline.models.adapters.base import Adapter, SeenImage, stack_padded
from sightline.models.encoding import EncodedRow, ImageInputs

if TYPE_CHECKING:
    import torch
    from torch import nn


class SmolVlmAdapter(Adapter):
    """An image is one or more square tiles, each as many image tokens."""

    model_types = ("smolvlm",)
    image_tensors = ("pixel_values", "pixel_attention_mask")
    images_kwargs = {"return_row_col_info": True}

    def model_class(self, config: Any) -> Any:
        from transformers import SmolVLMForConditionalGeneration

        return SmolVLMForConditionalGeneration

    def build_processor(self, source: str, **from_pretrained: Any) -> Any:
        from transformers import SmolVLMProcessor
        from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

        processor = SmolVLMProcessor.from_pretrained(source, **from_pretrained)
        processor.image_processor = SmolVLMImageProcessorPil.from_pretrained(source, **from_pretrained)
        return processor

    def vision_blocks(self, model: Any) -> nn.ModuleList:
        return model.model.vision_model.encoder.layers

    def vision_width(self, model: Any) -> int:
        return model.config.vision_config.hidden_size

    def decoder(self, model: Any) -> Any:
        return model.model.text_model

    def lm_head(self, model: Any) -> nn.Module:
        return model.lm_head

    def collate_images(self, images: Sequence[ImageInputs]) -> dict[str, torch.Tensor]:
        """(B, tiles, ...) with all-zero tiles as padding, which the model drops."""
        return {name: stack_padded([image.tensors[name] for image in images]) for name in self.image_tensors}

    def see_images(self, model: Any, rows: Sequence[EncodedRow]) -> list[SeenImage]:
        images = [row.image for row in rows if row.image is not None]
        inputs = {n: t.to(model.device) for n, t in self.collate_images(images).items()}
        outputs = model.get_image_features(**inputs, return_dict=True)
        tiles = [image.tensors["pixel_values"].shape[0] for image in images]
        features, patches = outputs.pooler_output.split(tiles), outputs.last_hidden_state.split(tiles)
        return [SeenImage(f.flatten(0, 1), p.flatten(0, 1)) for f, p in zip(features, patches, strict=True)]


class Idefics3Adapter(SmolVlmAdapter):
    """SmolVLM's elder: the same layout under other class names."""

    model_types = ("idefics3",)

    def model_class(self, config: Any) -> Any:
        from transformers import Idefics3ForConditionalGeneration

        return Idefics3ForConditionalGeneration

    def build_processor(self, source: str, **from_pretrained: Any) -> Any:
        from transformers import Idefics3Processor
        from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

        images = Idefics3ImageProcessorPil.from_pretrained(source, **from_pretrained)
        return Idefics3Processor.from_pretrained(source, image_processor=images, **from_pretrained)
