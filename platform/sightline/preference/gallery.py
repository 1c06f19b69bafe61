"""The pixels of one batch: each file decoded once, each wrong image made once.

One PIL object stands for one image, because that is how the model knows that prompts
share it. A file that cannot be read costs the rows that show it, and no other.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from sightline.config.mining import MineSettings
from sightline.errors import ImageError
from sightline.preference.wrong_image import WrongImage, stable_seed
from sightline.records import Example

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True, slots=True)
class Task:
    """One example with its candidates for the wrong image, as one row."""

    example: Example
    wrong_images: tuple[WrongImage, ...] = ()

    def to_row(self) -> dict[str, Any]:
        wrong = json.dumps([asdict(image) for image in self.wrong_images])
        return self.example.to_row() | {"wrong_images": wrong}

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Task:
        wrong = tuple(WrongImage(**image) for image in json.loads(row["wrong_images"]))
        return cls(Example.from_row(dict(row)), wrong)


@dataclass(frozen=True, slots=True)
class Shown:
    """The pixels of one task, or why there are none."""

    image: Image.Image | None
    wrong: Image.Image | None = None
    wrong_from: WrongImage | None = None
    sha256: str = ""
    """Of the right image's file."""
    error: str = ""


@dataclass(frozen=True, slots=True)
class _File:
    image: Image.Image
    sha256: str


class Gallery:
    """The images of one batch: each file decoded once, each wrong image made once."""

    def __init__(self, settings: MineSettings):
        self._settings = settings
        self._loaded: dict[str, _File | ImageError] = {}
        self._made: dict[str, tuple[Image.Image, WrongImage]] = {}

    def show(self, task: Task, wants_wrong: bool) -> Shown:
        try:
            right = self._load(task.example.image_uri, task.example.sha256)
            if not wants_wrong:
                return Shown(right.image, sha256=right.sha256)
            wrong, origin = self._wrong(task, right.image)
        except ImageError as error:
            return Shown(None, error=str(error))
        return Shown(right.image, wrong, origin, right.sha256)

    def _load(self, uri: str, sha256: str) -> _File:
        """The file decoded. Raises ImageError if it cannot be read, or is not the one that was listed."""
        from sightline.data.images import load_image, sha256_of

        if uri not in self._loaded:
            try:
                self._loaded[uri] = _File(load_image(uri), sha256_of(uri))
            except ImageError as error:
                self._loaded[uri] = error
        found = self._loaded[uri]
        if isinstance(found, ImageError):
            raise found
        if sha256 and sha256 != found.sha256:
            raise ImageError(
                expected=f"{uri} with the SHA-256 that its row states ({sha256[:12]}...)",
                got=f"{found.sha256[:12]}...",
                hint="the file has changed since the dataset was written",
            )
        return found

    def _wrong(self, task: Task, image: Image.Image) -> tuple[Image.Image, WrongImage]:
        """The first readable candidate, disturbed; a broken one must not cost a healthy row."""
        from sightline.data.corruptions import diffuse, noise

        settings, key = self._settings, task.example.image_id
        if key in self._made:
            return self._made[key]
        if settings.wrong_image == "noise":
            noise_seed = stable_seed(settings.seed, key, "noise")
            origin = WrongImage(image_id="", image_uri="", noise_seed=noise_seed)
            self._made[key] = noise(image, seed=noise_seed), origin
            return self._made[key]
        unreadable: list[str] = []
        for candidate in task.wrong_images:
            try:
                file = self._load(candidate.image_uri, candidate.sha256)
            except ImageError as error:
                unreadable.append(str(error))
                continue
            other = file.image
            if settings.wrong_image == "diffused":
                other = diffuse(other, step=settings.noise_step, seed=candidate.noise_seed)
            self._made[key] = other, replace(candidate, sha256=file.sha256)
            return self._made[key]
        raise ImageError(
            expected=f"a readable wrong image for {task.example.image_uri}",
            got="; ".join(unreadable) or "none",
        )
