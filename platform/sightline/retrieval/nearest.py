"""The simplest honest retrieval: captions of the scenes that look most alike.

A corpus is a set of images with texts. Query and corpus images are embedded by the
VLM's own vision tower and connector (mean of the image tokens, L2-normalised) and
compared by inner product in faiss. An image never retrieves its own text.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sightline.config.model import ModelConfig
from sightline.errors import DataError, ImageError
from sightline.records import Example


@dataclass(frozen=True, slots=True)
class Passage:
    """A text about one image of the corpus."""

    image_id: str
    text: str


def passages(examples: Sequence[Example]) -> list[Passage]:
    """One text an image: the true answer of its caption question, else `meta["caption"]`."""
    found: dict[str, str] = {}
    for example in examples:
        answer = example.answer if example.kind == "caption" else ""
        text = answer or str(example.meta.get("caption") or "")
        if text:
            found.setdefault(example.image_id, text)
    return [Passage(image_id, text) for image_id, text in found.items()]


class Index:
    """Passages by the embedding of their image. `embeddings_ND` must be L2-normalised."""

    def __init__(self, corpus: Sequence[Passage], embeddings_ND: np.ndarray):
        import faiss

        if len(corpus) == 0 or embeddings_ND.shape[0] != len(corpus):
            raise DataError(
                expected="a corpus with one embedding a passage",
                got=f"{len(corpus)} passages, {embeddings_ND.shape[0]} embeddings",
            )
        self._corpus = list(corpus)
        self._most_per_image = max(Counter(p.image_id for p in corpus).values())
        self._index = faiss.IndexFlatIP(embeddings_ND.shape[1])
        self._index.add(np.ascontiguousarray(embeddings_ND, dtype=np.float32))

    def search(self, queries_ND: np.ndarray, image_ids: Sequence[str], k: int) -> list[list[Passage]]:
        """For each query image the `k` nearest passages, the nearest first, none of its own."""
        # Enough to be left with k after dropping the query's own passages.
        reach = min(len(self._corpus), k + self._most_per_image)
        _, nearest_NK = self._index.search(np.ascontiguousarray(queries_ND, dtype=np.float32), reach)
        results = []
        for image_id, row in zip(image_ids, nearest_NK, strict=True):
            others = (self._corpus[i] for i in row if self._corpus[i].image_id != image_id)
            results.append([passage for passage, _ in zip(others, range(k), strict=False)])
        return results


class ImageEmbedder:
    """Worker: `image_uri` -> `embedding`, a unit vector from the model's own image tokens."""

    def __init__(self, config: ModelConfig):
        from sightline.models.vlm import Vlm

        self._vlm = Vlm.of(config)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        from sightline.data import images

        loaded: list[Any] = []
        errors = []
        for uri in batch["image_uri"]:
            try:
                loaded.append(images.load_image(str(uri)))
                errors.append("")
            except ImageError as error:
                errors.append(str(error))
        vectors = iter(embed(self._vlm, loaded))
        embeddings = np.empty(len(errors), dtype=object)
        embeddings[:] = [[] if error else next(vectors).tolist() for error in errors]
        return {
            "row_id": batch["row_id"],
            "embedding": embeddings,
            "error": np.array(errors, dtype=object),
        }


def embed(vlm: Any, images: Sequence[Any]) -> np.ndarray:
    """Unit vectors [N, D] of PIL images: the mean of each one's image tokens after the connector."""
    import torch

    from sightline.models.prompts import Prompt

    if not images:
        return np.zeros((0, 0), dtype=np.float32)
    rows = vlm.encode([Prompt(image, "?") for image in images])
    with torch.inference_mode():
        tokens = vlm.adapter.encode_images(vlm.model, rows)
        means_ND = torch.stack([t.float().mean(dim=0) for t in tokens])
        return torch.nn.functional.normalize(means_ND, dim=-1).cpu().numpy()
