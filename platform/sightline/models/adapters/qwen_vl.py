"""Qwen2-VL and Qwen2.5-VL: native resolution, merged patches, rotary positions of three axes.

Image tokens carry (time, height, width) positions, so a token's position is not its index;
text after the image goes on from the largest one, equal on all axes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sightline.models.adapters.base import Adapter, SeenImage, standard_normal
from sightline.models.encoding import EncodedRow, ImageInputs

if TYPE_CHECKING:
    import torch


class Qwen2VlAdapter(Adapter):
    """Patches of all images of a batch stand in one tensor; `image_grid_thw` tells them apart."""

    model_types = ("qwen2_vl",)
    position_axes = 3
    image_tensors = ("pixel_values", "image_grid_thw")

    def model_class(self, config: Any) -> Any:
        from transformers import Qwen2VLForConditionalGeneration

        return Qwen2VLForConditionalGeneration

    def build_processor(self, source: str, **from_pretrained: Any) -> Any:
        from transformers import Qwen2VLProcessor

        return self.with_pil_images(Qwen2VLProcessor, source, **from_pretrained)

    def with_pil_images(self, processor_class: Any, source: str, **from_pretrained: Any) -> Any:
        """A processor whose image processor is Qwen2-VL's PIL one (both generations use it)."""
        from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

        processor = processor_class.from_pretrained(source, **from_pretrained)
        processor.image_processor = Qwen2VLImageProcessorPil.from_pretrained(source, **from_pretrained)
        return processor

    def vision_blocks(self, model: Any) -> Any:
        return model.model.visual.blocks

    def vision_width(self, model: Any) -> int:
        # Qwen2-VL's config calls the decoder's width `hidden_size` and its own `embed_dim`.
        return model.config.vision_config.embed_dim

    def vision_tokens(self, model: Any) -> int | None:
        # The blocks see the patches of all images in one line, as many as each image has.
        return None

    def decoder(self, model: Any) -> Any:
        return model.model.language_model

    def lm_head(self, model: Any) -> Any:
        return model.lm_head

    def attention_window(self, text_config: Any) -> int | None:
        return text_config.sliding_window if "sliding_attention" in text_config.layer_types else None

    def single(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        return tensor if name == "pixel_values" else tensor[0]

    def pixel_noise(self, processor: Any, pixels: torch.Tensor, seed: int) -> torch.Tensor:
        """One frame's noise, repeated: a picture stands in its patches once for each frame.

        Noise of its own on each copy would cancel out in part where the tower adds them up.
        """
        images = processor.image_processor
        frames, area = images.temporal_patch_size, images.patch_size**2
        noise_NCA = standard_normal((len(pixels), pixels.shape[1] // (frames * area), area), seed)
        return noise_NCA.unsqueeze(2).expand(-1, -1, frames, -1).reshape(pixels.shape)

    def collate_images(self, images: Sequence[ImageInputs]) -> dict[str, torch.Tensor]:
        import torch

        return {
            "pixel_values": torch.cat([image.tensors["pixel_values"] for image in images]),
            "image_grid_thw": torch.stack([image.tensors["image_grid_thw"] for image in images]),
        }

    def see_images(self, model: Any, rows: Sequence[EncodedRow]) -> list[SeenImage]:
        images = [row.image for row in rows if row.image is not None]
        inputs = {n: t.to(model.device) for n, t in self.collate_images(images).items()}
        outputs = model.get_image_features(**inputs, return_dict=True)
        # Qwen2.5's tower returns patches in the order of its windows: image by image all the same.
        patches = outputs.last_hidden_state.split(inputs["image_grid_thw"].prod(-1).tolist())
        return [SeenImage(f, p) for f, p in zip(outputs.pooler_output, patches, strict=True)]

    def positions(self, model: Any, row: EncodedRow) -> torch.Tensor:
        import torch

        if row.image is None:
            return torch.arange(len(row)).expand(3, -1)
        ids_1T = torch.tensor([row.ids])
        positions_31T, _ = model.model.get_rope_index(
            ids_1T,
            mm_token_type_ids=self.token_types(row)[None],
            image_grid_thw=row.image.tensors["image_grid_thw"][None],
        )
        return positions_31T[:, 0]

    def token_types(self, row: EncodedRow) -> torch.Tensor:
        """1 at image tokens, 0 elsewhere (T)."""
        import torch

        types_T = torch.zeros(len(row), dtype=torch.int)
        types_T[row.spans.image_indices()] = 1
        return types_T

    def sequence_inputs(self, rows: Sequence[EncodedRow], ids_BT: torch.Tensor) -> dict[str, torch.Tensor]:
        """`mm_token_type_ids`: the model finds images by them when it derives positions."""
        image_id = next(row.ids[row.spans.image[0].start] for row in rows)
        return {"mm_token_type_ids": (ids_BT == image_id).int()}


class Qwen25VlAdapter(Qwen2VlAdapter):
    """Qwen2-VL with window attention in the vision tower."""

    model_types = ("qwen2_5_vl",)

    def vision_width(self, model: Any) -> int:
        return model.config.vision_config.hidden_size

    def model_class(self, config: Any) -> Any:
        from transformers import Qwen2_5_VLForConditionalGeneration

        return Qwen2_5_VLForConditionalGeneration

    def build_processor(self, source: str, **from_pretrained: Any) -> Any:
        from transformers import Qwen2_5_VLProcessor

        return self.with_pil_images(Qwen2_5_VLProcessor, source, **from_pretrained)
