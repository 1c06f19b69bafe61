"""A small activation store whose answer is known: one site knows the label, one does not, one is constant."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sightline.activations.manifest import write_manifest
from sightline.activations.parts import write_part
from sightline.activations.sites import Site

SITES = ("vision_only", "query_token.embedding", "query_token.layer_0", "query_token.layer_3")
ROWS, WIDTH = 300, 16


def write_store(folder: Path, *, rows: int = ROWS, labelled: float = 1.0) -> Path:
    """Three questions an image; a third hallucinated; layer_3 sees the label through noise."""
    rng = np.random.default_rng(0)
    labels_N = (rng.random(rows) < 1 / 3).astype(float)
    features = {site: rng.normal(size=(rows, WIDTH)).astype(np.float32) for site in SITES}
    features["vision_only"][:] = features["vision_only"][np.arange(rows) // 3 * 3]
    features["query_token.embedding"][:] = 0.5
    features["query_token.layer_3"][:, 0] += 2.5 * labels_N
    shown_N = np.where(rng.random(rows) < labelled, labels_N, np.nan)
    columns = {
        "image_id": [f"image-{i // 3}" for i in range(rows)],
        "question": [f"Is there a {('dog', 'cat', 'bus')[i % 3]}?" for i in range(rows)],
        "kind": [("yes_no", "color")[i % 2] for i in range(rows)],
        "source": ["world"] * rows,
        "label": shown_N,
    }
    ids, half, parts = [f"q{i}" for i in range(rows)], rows // 2, []
    for n, (a, b) in enumerate(((0, half), (half, rows))):
        parts.append(
            write_part(
                folder / f"part-{n:06d}.h5",
                ids=ids[a:b],
                features={site: x[a:b] for site, x in features.items()},
                columns={name: values[a:b] for name, values in columns.items()},
            )
        )
    sites = [Site.parse(site) for site in SITES]
    write_manifest(folder, parts, sites=sites, expected_ids=ids, meta={"model": "synthetic"})
    return folder
