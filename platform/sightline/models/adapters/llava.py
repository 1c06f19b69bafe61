"""LLaVA-1.5 and LLaVA-NeXT: CLIP tower, a projector, Llama or Mistral.

LLaVA-NeXT cuts an image into tiles by its shape and drops the features of padding, so its
images differ in their number of image tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from sightline.models.adapters.base import Adapter, SeenImage, stack_padded
from sightline.models.encoding import EncodedRow, ImageInputs

if TYPE_CHECKING:
    import torch


class LlavaAdapter(Adapter):
    """One square image, a fixed number of image tokens."""

    model_types = ("llava",)
    class_tokens = 1
    exported_names = (r"vision_tower\.(?!vision_model\.)", "vision_tower.vision_model.")
    image_tensors: ClassVar[tuple[str, ...]] = ("pixel_values",)

    def model_class(self, config: Any) -> Any:
        from transformers import LlavaForConditionalGeneration

        return LlavaForConditionalGeneration

    def build_processor(self, source: str, **from_pretrained: Any) -> Any:
        # The checkpoints name CLIP's image processor, not LLaVA's (which pads to a square).
        from transformers import LlavaProcessor
        from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

        images = CLIPImageProcessorPil.from_pretrained(source, **from_pretrained)
        return LlavaProcessor.from_pretrained(source, image_processor=images, **from_pretrained)

    def vision_blocks(self, model: Any) -> Any:
        return model.model.vision_tower.encoder.layers

    def vision_width(self, model: Any) -> int:
        return model.config.vision_config.hidden_size

    def decoder(self, model: Any) -> Any:
        return model.model.language_model

    def lm_head(self, model: Any) -> Any:
        return model.lm_head

    def attention_window(self, text_config: Any) -> int | None:
        return text_config.sliding_window if text_config.model_type == "mistral" else None

    def collate_images(self, images: Sequence[ImageInputs]) -> dict[str, torch.Tensor]:
        return {name: stack_padded([image.tensors[name] for image in images]) for name in self.image_tensors}

    def see_images(self, model: Any, rows: Sequence[EncodedRow]) -> list[SeenImage]:
        images = [row.image for row in rows if row.image is not None]
        inputs = {n: t.to(model.device) for n, t in self.collate_images(images).items()}
        inputs["pixel_values"] = inputs["pixel_values"].to(model.dtype)
        outputs = model.get_image_features(**inputs, return_dict=True)
        # CLIP's class token comes first; the patches need not be those the decoder is shown
        # (LLaVA shows it the last block but one).
        patches = outputs.last_hidden_state[:, 1:].split([self.tiles(image) for image in images])
        return [SeenImage(f, p.flatten(0, 1)) for f, p in zip(outputs.pooler_output, patches, strict=True)]

    def tiles(self, image: ImageInputs) -> int:
        """Pictures that the tower sees for one image."""
        return 1


class LlavaNextAdapter(LlavaAdapter):
    """Tiles by the image's shape: `image_sizes` says how many features each image keeps."""

    model_types = ("llava_next",)
    image_tensors = ("pixel_values", "image_sizes")
    images_kwargs = {"do_pad": True}

    def model_class(self, config: Any) -> Any:
        from transformers import LlavaNextForConditionalGeneration

        return LlavaNextForConditionalGeneration

    def build_processor(self, source: str, **from_pretrained: Any) -> Any:
        from transformers import LlavaNextProcessor
        from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil

        images = LlavaNextImageProcessorPil.from_pretrained(source, **from_pretrained)
        return LlavaNextProcessor.from_pretrained(source, image_processor=images, **from_pretrained)

    def tiles(self, image: ImageInputs) -> int:
        return image.tensors["pixel_values"].shape[0]
