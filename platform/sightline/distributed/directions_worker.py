"""Differences of hidden states: two Workers, from pairs of captions and from images. Knows no Ray.

Each returns the column `delta`, float32: (N, L, D) clean - hallucinated of a pair, (N, L, P, W)
mean perturbed - original of an image (averaged over its tiles where it has several). In `released`
mode the embeddings stand in front of the layers. What fails for one row goes into its `error`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors.numpy

from sightline.config.directions import DeriveSettings, Perturbation
from sightline.config.model import ModelConfig
from sightline.data.images import decode_image, read_bytes
from sightline.distributed.parts import Kept
from sightline.distributed.storage import Storage
from sightline.errors import DataError, ImageError, ModelError
from sightline.records import PreferencePair

if TYPE_CHECKING:
    import torch
    from PIL import Image

    from sightline.models.vlm import Vlm

DELTA = "delta"


@dataclass(frozen=True, slots=True)
class DirectionsWorkerConfig:
    """What both Workers need."""

    model: ModelConfig
    settings: DeriveSettings
    perturbation: Perturbation


class TextDeltas:
    """Columns of `PreferencePair.to_row()` in, `pair_id`, `delta` and `error` out.

    `vlm` is loaded from `config.model` unless one is handed over (in one process).
    """

    def __init__(self, config: DirectionsWorkerConfig, vlm: Vlm | None = None):
        from sightline.models.vlm import Vlm

        self._settings = config.settings
        self._vlm = vlm or Vlm.of(config.model)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        count = len(batch["pair_id"])
        pairs = [PreferencePair.from_row({n: v[i] for n, v in batch.items()}) for i in range(count)]
        images, errors = load(batch["image_uri"].tolist(), self._settings.max_pixels)
        found = dict(self._deltas([i for i in range(count) if not errors[i]], pairs, images, errors))
        return {"pair_id": batch["pair_id"], **columns_of(found, errors)}

    def _deltas(
        self,
        taken: list[int],
        pairs: Sequence[PreferencePair],
        images: Mapping[str, Loaded],
        errors: list[str],
    ) -> list[tuple[int, np.ndarray]]:
        """(row, (L, D)) of both captions of each pair in one go.

        A pair that the model cannot take fails alone: its reason goes into `errors`.
        """
        from sightline.models.prompts import Prompt
        from sightline.models.text_states import caption_states

        if not taken:
            return []
        chosen = [pairs[i] for i in taken]
        prompts = [Prompt(images[pair.image_uri].image, pair.question, pair.context) for pair in chosen]
        captions = [pair.chosen for pair in chosen] + [pair.rejected for pair in chosen]
        released = self._settings.mode == "released"
        try:
            states = caption_states(
                self._vlm, prompts * 2, captions, batch_size=self._settings.batch_size, released=released
            )
        except (DataError, ModelError) as error:
            if len(taken) == 1:
                errors[taken[0]] = str(error)
                return []
            half = len(taken) // 2
            parts = (taken[:half], taken[half:])
            return [found for part in parts for found in self._deltas(part, pairs, images, errors)]
        clean, wrong = states.split(len(taken))
        return list(zip(taken, (clean - wrong).numpy(), strict=True))


class VisualDeltas:
    """The column `image_uri` in; `image_uri`, `delta` and `error` out.

    `vlm` is loaded from `config.model` unless one is handed over (in one process).
    """

    def __init__(self, config: DirectionsWorkerConfig, vlm: Vlm | None = None):
        from sightline.models.vlm import Vlm

        self._settings, self._how = config.settings, config.perturbation
        self._vlm = vlm or Vlm.of(config.model)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        images, errors = load(batch["image_uri"].tolist(), self._settings.max_pixels)
        found = {}
        for i, uri in enumerate(batch["image_uri"]):
            if not errors[i]:
                try:
                    found[i] = self._delta(images[uri]).cpu().numpy()
                except ValueError as error:  # what processors say of shapes they cannot take
                    errors[i] = f"the model's processor refuses {uri}: {error}"
        return {"image_uri": batch["image_uri"], **columns_of(found, errors)}

    def _delta(self, loaded: Loaded) -> torch.Tensor:
        """(L, P, W): mean over the trials minus the original."""
        from sightline.interventions.perturb import perturbed

        image, key = loaded.image, loaded.sha256
        inputs = self._vlm.adapter.image_inputs(self._vlm.processor, image)
        original = self._states([inputs])
        total, settings = None, self._settings
        for start in range(0, settings.trials, settings.batch_size):
            trials = range(start, min(start + settings.batch_size, settings.trials))
            spoiled = [
                perturbed(self._vlm, image, inputs, self._how, seed=settings.seed, key=key, trial=trial)
                for trial in trials
            ]
            part = self._states(spoiled)
            total = part if total is None else total + part
        assert total is not None
        return total / settings.trials - original

    def _states(self, images: Sequence[Any]) -> torch.Tensor:
        """Sum over the images of the mean over their tiles: (L, P, W), or (L, 1, W) for all tokens."""
        import torch

        from sightline.models.vision_states import vision_states

        states = vision_states(self._vlm, images, embeddings=self._settings.mode == "released")
        total = torch.stack([of_one.mean(0) for of_one in states]).sum(0)
        return total.mean(1, keepdim=True) if self._settings.tokens == "mean" else total


@dataclass(frozen=True, slots=True)
class DeltaParts:
    """A part of a run as one safetensors file: the differences of the rows that worked."""

    suffix: str = ".safetensors"

    def write(self, storage: Storage, name: str, batches: Sequence[Kept]) -> dict[str, Any]:
        kept = [batch.columns[DELTA][i] for batch in batches for i in np.flatnonzero(batch.keep_N)]
        shapes = sorted({array.shape for array in kept})
        check_shapes(shapes)
        data = safetensors.numpy.save({DELTA: np.stack(kept)} if kept else {})
        storage.write_bytes(name, data)
        return {"bytes": len(data)}


def check_shapes(shapes: Sequence[tuple[int, ...]]) -> None:
    """Raises DataError unless all differences are of one shape."""
    if len(shapes) > 1:
        raise DataError(
            expected="images with one number of tokens, for a direction of each token",
            got=f"differences of shapes {' and '.join(map(str, shapes[:2]))}",
            hint="set derive.tokens=mean, or bring the images to one size",
        )


@dataclass(frozen=True, slots=True)
class Loaded:
    """An image, and the hash of its file: what its perturbations are seeded by."""

    image: Image.Image
    sha256: str


def load(uris: Sequence[str], max_pixels: int) -> tuple[dict[str, Loaded], list[str]]:
    """Each image read once, by URI; and for each row why it has none ("" where it has)."""
    images: dict[str, Loaded] = {}
    errors: dict[str, str] = {}
    for uri in dict.fromkeys(uris):
        try:
            data = read_bytes(uri)
            image = decode_image(data, uri, max_pixels=max_pixels)
            images[uri] = Loaded(image, hashlib.sha256(data).hexdigest())
        except ImageError as error:
            errors[uri] = str(error)
    return images, [errors.get(uri, "") for uri in uris]


def columns_of(found: Mapping[int, np.ndarray], errors: Sequence[str]) -> dict[str, np.ndarray]:
    """`delta` and `error` of all rows. An array of objects: rows that failed have no difference."""
    deltas = np.empty(len(errors), dtype=object)
    for i, delta in found.items():
        deltas[i] = delta
    return {DELTA: deltas, "error": np.asarray(errors, dtype=object)}
