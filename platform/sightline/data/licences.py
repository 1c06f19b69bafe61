"""What the user downloads, from where, under which licence; and what may not be copied.

Nothing here fetches anything. A loader names its source in its errors, so that a missing file
says what to get. A source under a use agreement is `restricted`: its examples carry the mark in
`meta`, and whoever writes rows, images or reports asks `is_restricted` first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from sightline.errors import DataError
from sightline.records import Example

RESTRICTED = "restricted"
"""Key in `Example.meta`: true = neither text nor image goes into a run folder."""


@dataclass(frozen=True, slots=True)
class Source:
    """A benchmark as its authors publish it. `files` is what the user must have."""

    title: str
    files: str
    url: str
    licence: str
    restricted: bool = False


SOURCES: Mapping[str, Source] = MappingProxyType(
    {
        "pope": Source(
            "POPE",
            "output/coco/coco_pope_{random,popular,adversarial}.json; images: COCO val2014",
            "https://github.com/RUCAIBox/POPE",
            "MIT; COCO annotations CC BY 4.0, images under their Flickr terms",
        ),
        "coco_chair": Source(
            "CHAIR on COCO",
            "instances_val2014.json, captions_val2014.json; images: COCO val2014",
            "https://cocodataset.org",
            "annotations CC BY 4.0, images under their Flickr terms",
        ),
        "amber": Source(
            "AMBER",
            "data/annotations.json, relation.json, safe_words.txt, query/*.json; images AMBER_*.jpg",
            "https://github.com/junyangwang0410/AMBER",
            "Apache-2.0",
        ),
        "mmhal": Source(
            "MMHal-Bench",
            "response_template.json and the 96 images its image_src names",
            "https://huggingface.co/datasets/Shengcao1006/MMHal-Bench",
            "Apache-2.0; images Open Images (CC BY 2.0)",
        ),
        "infoseek": Source(
            "InfoSeek",
            "infoseek_val.jsonl (and _qtype.jsonl); images: OVEN's oven_*.jpg",
            "https://github.com/open-vision-language/infoseek",
            "Apache-2.0; images under the terms of their sources",
        ),
        "kvqa": Source(
            "KVQA",
            "dataset.json; images: KVQAimgs/",
            "https://malllabiisc.github.io/resources/kvqa/",
            "research use, as its page says; images from Wikimedia Commons",
        ),
        "medhall": Source(
            "Medical hallucination questions (MedHallBench, MedVH and the like)",
            "a JSON list or JSON lines of image, question, answer, and options where there are any",
            "of your own or as the benchmark's authors hand it out",
            "as its authors say; treated as under a use agreement",
            restricted=True,
        ),
        "mmed_rag": Source(
            "MMed-RAG",
            "its JSON or JSON lines; images: IU-Xray, MIMIC-CXR, Harvard-FairVLMed, PMC-OA, Quilt-1M",
            "https://github.com/richard-peng-xia/MMed-RAG",
            "MIT for the code; the images and reports under the agreements of their sources "
            "(MIMIC-CXR: PhysioNet; Harvard: its data use agreement; IU-Xray: CC BY-NC-ND 4.0)",
            restricted=True,
        ),
        "flickr8k": Source(
            "Flickr8k",
            "captions.txt or Flickr8k.token.txt; images: Flicker8k_Dataset/",
            "https://hockenmaier.cs.illinois.edu/8k-pictures.html",
            "research and education only; images under their Flickr terms",
        ),
    }
)
"""Every benchmark that is read here, by the `type` of its dataset."""


def require(path: Path, name: str) -> Path:
    """The path, or a DataError that says what to download and under which licence."""
    if not path.exists():
        source = SOURCES[name]
        raise DataError(
            expected=f"{source.title} at {path}",
            got="nothing",
            hint=f"get {source.files} from {source.url} (licence: {source.licence})",
        )
    return path


def is_restricted(example: Example) -> bool:
    """May neither text nor image of this example leave the place it was read from?"""
    return bool(example.meta.get(RESTRICTED))
