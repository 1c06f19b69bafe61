"""Images small enough to live inside a page."""

from __future__ import annotations

import base64
import io

from sightline.errors import ImageError

LONGEST_PX = 360
"""Longest side of an image in the page."""


def image_data_uri(uri: str) -> str:
    """The image as a `data:` URI: PNG when it was small, else a smaller JPEG; "" when unreadable."""
    from sightline.data.images import load_image

    try:
        image = load_image(uri)
    except ImageError:
        return ""
    buffer = io.BytesIO()
    if max(image.size) <= LONGEST_PX:
        image.save(buffer, "PNG", optimize=True)
        kind = "png"
    else:
        image.thumbnail((LONGEST_PX, LONGEST_PX))
        image.save(buffer, "JPEG", quality=85)
        kind = "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
