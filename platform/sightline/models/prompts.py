"""What is put before a model. The one place that says how a context joins a question."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

    from sightline.models.encoding import ImageInputs


@dataclass(frozen=True, slots=True, eq=False)
class Prompt:
    """One user turn: an image (PIL, RGB; None = text only), a question and maybe a context.

    Prompts that hold the same image *object* share its encoding, so pass the same one
    wherever the image is the same. An image that was prepared ahead of the model
    (`adapter.image_inputs`, in another thread) may stand in for the picture.
    """

    image: Image.Image | ImageInputs | None
    question: str
    context: str = ""

    @property
    def text(self) -> str:
        """The user's text as the chat template receives it."""
        return f"Reference: {self.context}\n{self.question}" if self.context else self.question
