"""What one model family must tell us. Everything else in the library is family-blind.

An adapter holds no state and no weights: it is a set of answers to "where is ...?" for one
family of transformers' classes. It never looks for modules by name patterns or sizes.

Shapes: B sequences, T tokens, P image tokens and S patches of one image, D width of the text
model, W of the vision tower.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar
from weakref import WeakKeyDictionary

from sightline.errors import ModelError
from sightline.models.encoding import EncodedRow, ImageInputs
from sightline.models.prompts import Prompt
from sightline.models.template import Frame, derive_frame

if TYPE_CHECKING:
    import torch
    from PIL import Image
    from torch import nn

# One entry for each living processor: the frame needs two renderings of a Jinja template.
_FRAMES: WeakKeyDictionary[Any, dict[tuple[bool, str], Frame]] = WeakKeyDictionary()


@dataclass(frozen=True, slots=True)
class SeenImage:
    """What one vision pass makes of one image."""

    features_PD: torch.Tensor
    """Ready to replace the image's tokens."""
    patches_SW: torch.Tensor
    """The tower's last hidden state at every patch of every tile, in no particular order.

    As the tower returns it: after the final norm where the tower applies one to its patches
    (SigLIP, InstructBLIP's ViT), without one where it does not (CLIP, Qwen). No class token.
    """


class Adapter(ABC):
    """One family. `model` is the family's `...ForConditionalGeneration`, never a wrapper of it."""

    model_types: ClassVar[tuple[str, ...]]
    """The `config.model_type`s this adapter answers for."""
    supports_prefix_reuse: ClassVar[bool] = True
    """Whether the keys and values of a shared image and context may serve several prompts."""
    supports_shared_prefix: ClassVar[bool] = True
    """Whether training may put several answers after one prompt with 2-D position ids."""
    position_axes: ClassVar[int] = 1
    """Axes of the decoder's rotary positions: 1, or 3 (time, height, width)."""
    takes_position_ids: ClassVar[bool] = True
    """Whether the family's own forward accepts `position_ids`."""
    class_tokens: ClassVar[int] = 0
    """Tokens that the vision tower puts before a picture's patches."""
    image_tensors: ClassVar[tuple[str, ...]]
    """Names of the processor's per-image tensors that the model's forward takes."""
    images_kwargs: ClassVar[dict[str, Any]] = {}
    """What the processor passes to its image processor by default."""

    exported_names: ClassVar[tuple[str, str]] = ("", "")
    """(pattern, replacement) of weight names that vLLM wants otherwise than transformers saves them;
    transformers loads both."""

    # -- loading ------------------------------------------------------------------------
    @abstractmethod
    def model_class(self, config: Any) -> Any:
        """transformers' class with a language-model head."""

    @abstractmethod
    def build_processor(self, source: str, **from_pretrained: Any) -> Any:
        """The family's processor, with the PIL image processor on every machine.

        The torchvision backend gives other pixels (up to 1e-2) and needs its compiled
        operators, so numbers would differ from machine to machine.
        """

    # -- where things are ---------------------------------------------------------------
    @abstractmethod
    def vision_blocks(self, model: Any) -> nn.ModuleList:
        """The vision tower's transformer blocks, in order."""

    @abstractmethod
    def vision_width(self, model: Any) -> int:
        """Features of the vision tower's hidden state."""

    @abstractmethod
    def decoder(self, model: Any) -> Any:
        """The text model under the language-model head: embeddings, blocks, final norm."""

    @abstractmethod
    def lm_head(self, model: Any) -> nn.Module:
        """From the decoder's last hidden state to logits."""

    def text_blocks(self, model: Any) -> Any:
        """The decoder's blocks (nn.ModuleList); layer 0 is the output of the first."""
        return self.decoder(model).layers

    def attentions(self, model: Any) -> list[Any]:
        """Each decoder block's attention module."""
        return [block.self_attn for block in self.text_blocks(model)]

    def attention_outputs(self, model: Any) -> list[Any]:
        """Each decoder block's linear projection of the concatenated heads (`o_proj`)."""
        return [attention.o_proj for attention in self.attentions(model)]

    def text_mlps(self, model: Any) -> list[nn.Module]:
        """Each decoder block's MLP, whose output joins the residual stream as it is."""
        return [block.mlp for block in self.text_blocks(model)]

    def vision_mlps(self, model: Any) -> list[Any]:
        """Each vision block's MLP, whose output joins the residual stream as it is."""
        return [block.mlp for block in self.vision_blocks(model)]

    def vision_tokens(self, model: Any) -> int | None:
        """Tokens of one picture (image or tile) in the vision blocks; None where pictures differ."""
        vision = model.config.vision_config
        return (vision.image_size // vision.patch_size) ** 2 + self.class_tokens

    def text_width(self, model: Any) -> int:
        """Features of the decoder's hidden state."""
        embeddings: Any = self.embeddings(model)
        return embeddings.weight.shape[1]

    def final_norm(self, model: Any) -> nn.Module:
        """The norm between the last block and the head."""
        return self.decoder(model).norm

    def embeddings(self, model: Any) -> nn.Module:
        """Token embeddings."""
        return self.decoder(model).get_input_embeddings()

    def image_token_id(self, processor: Any) -> int:
        """The placeholder id that stands for one image feature vector."""
        return processor.image_token_id

    # -- text ---------------------------------------------------------------------------
    def frame(self, processor: Any, with_image: bool) -> Frame:
        """The chat template around question and answer, rendered once for each processor."""
        frames = _FRAMES.setdefault(processor, {})
        key = (with_image, str(processor.chat_template))
        if key not in frames:
            frames[key] = self.derive_frame(processor, with_image)
        return frames[key]

    def derive_frame(self, processor: Any, with_image: bool) -> Frame:
        """The frame of the processor's own chat template."""
        tokenizer = processor.tokenizer
        if processor.chat_template is None:
            raise ModelError(
                expected="a processor with a chat template",
                got="none",
                hint="add the checkpoint's chat_template.jinja to its folder",
            )
        return derive_frame(
            lambda messages, opening: processor.apply_chat_template(
                messages, add_generation_prompt=opening, processor_kwargs={"padding": False}
            ),
            with_image=with_image,
            special_tokens=[str(t) for t in tokenizer.added_tokens_decoder.values() if t.special],
            eos_token=tokenizer.eos_token,
        )

    def expand(self, processor: Any, head: str, image: ImageInputs) -> str:
        """The frame's head with the one placeholder replaced by the image's tokens."""
        return head.replace(processor.image_token, image.placeholder, 1)

    def leading_ids(self, processor: Any, image: ImageInputs) -> list[int]:
        """Ids that the processor puts before the tokenised text (InstructBLIP's image tokens)."""
        return []

    def text_inputs(self, processor: Any, prompt: Prompt) -> dict[str, list[int]]:
        """Further token ids the model wants beside `input_ids`."""
        return {}

    # -- images -------------------------------------------------------------------------
    def image_inputs(self, processor: Any, image: Image.Image) -> ImageInputs:
        """The processor's tensors for one image, and the text that stands for it."""
        features = processor.image_processor([image], return_tensors="pt", **self.images_kwargs)
        placeholder = processor.replace_image_token(features, image_idx=0)
        tensors = {name: self.single(name, features[name]) for name in self.image_tensors}
        return ImageInputs(tensors, placeholder, placeholder.count(processor.image_token))

    def single(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        """Drop the batch axis of a processor tensor made from one image."""
        return tensor[0]

    def pixel_noise(self, processor: Any, pixels: torch.Tensor, seed: int) -> torch.Tensor:
        """Standard normal noise for the `pixel_values` of one image, float32, of their shape."""
        return standard_normal(pixels.shape, seed)

    @abstractmethod
    def collate_images(self, images: Sequence[ImageInputs]) -> dict[str, torch.Tensor]:
        """Per-image tensors -> the model's inputs, in the order of `images`."""

    @abstractmethod
    def see_images(self, model: Any, rows: Sequence[EncodedRow]) -> list[SeenImage]:
        """Each row's image through the vision tower and the connector, in one pass.

        Pass one row for each distinct `image_key`; every row must have an image.
        """

    def encode_images(self, model: Any, rows: Sequence[EncodedRow]) -> list[torch.Tensor]:
        """Feature vectors (P, D) alone of `see_images`."""
        return [seen.features_PD for seen in self.see_images(model, rows)]

    def image_key(self, row: EncodedRow) -> Hashable:
        """Rows with equal keys have equal image features."""
        return id(row.image)

    def embed(
        self, model: Any, ids_BT: torch.Tensor, features: Sequence[torch.Tensor], image_token_id: int
    ) -> torch.Tensor:
        """Token embeddings (B, T, D) with image tokens replaced, in reading order, by `features`."""
        import torch

        embeds_BTD = self.embeddings(model)(ids_BT)
        if not features:
            return embeds_BTD
        merged = torch.cat([f.to(embeds_BTD.dtype) for f in features])
        mask_BT1 = (ids_BT == image_token_id).unsqueeze(-1)
        return embeds_BTD.masked_scatter(mask_BT1, merged)

    # -- positions and batches ----------------------------------------------------------
    def positions(self, model: Any, row: EncodedRow) -> torch.Tensor:
        """Position ids of one unpadded sequence: (1, T), or (3, T) for multi-axis rotary."""
        import torch

        return torch.arange(len(row)).unsqueeze(0)

    def attention_window(self, text_config: Any) -> int | None:
        """Tokens a decoder block looks back over, if fewer than all; None without a window."""
        return None

    def sequence_inputs(self, rows: Sequence[EncodedRow], ids_BT: torch.Tensor) -> dict[str, torch.Tensor]:
        """Further per-token inputs of the model's own forward, padded like `ids_BT`."""
        return {}


def standard_normal(shape: Sequence[int], seed: int) -> torch.Tensor:
    """float32 on the CPU, the same on every machine."""
    import numpy as np
    import torch

    return torch.from_numpy(np.random.default_rng(seed).standard_normal(tuple(shape), dtype=np.float32))


def stack_padded(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """Tensors that may differ in size along their first axis, stacked; missing parts are zero."""
    from torch.nn.utils.rnn import pad_sequence

    return pad_sequence(list(tensors), batch_first=True)
