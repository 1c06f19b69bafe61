"""`jobs/extract.py`: activations of a model at chosen sites, with labels, as a store."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveInt, field_validator

from sightline.config.base import Frozen, Location
from sightline.config.dataset import DatasetConfig, WorldDataset
from sightline.config.model import ModelConfig
from sightline.config.resources import ResourcesConfig
from sightline.config.run import RunConfig

SiteKind = Literal["vision_only", "vision_token", "query_token", "prompt_token", "answer_mean"]
"""The positions of `sightline.activations.sites`, which says exactly what each is."""


class ExtractSettings(Frozen):
    """Which activations, whose labels, in what portions."""

    sites: tuple[SiteKind, ...] = Field(default=("vision_only", "vision_token", "query_token"), min_length=1)
    """Positions: mean of the vision tower, last image token, last token of the question, last
    token before the answer (prompt_token), mean over the answer (answer_mean)."""
    layers: tuple[int, ...] | None = Field(default=None, min_length=1)
    """Decoder blocks whose output is taken, from 0; -1 = the embeddings. null = 0, a quarter,
    half, three quarters of the blocks, and the last."""
    answers: Literal["needed", "always", "never"] = "needed"
    """Whether the model answers each question: needed = for a label that nothing else gives, or
    for answer_mean."""
    judge: str = Field(default="auto", pattern=r"^(auto|exact|normalized|yes_no|caption|[\w.]+:\w+)$")
    """What makes an answer wrong, hence its label 1: auto (by the kind of question), exact,
    normalized, yes_no, caption, or your own `module:function`. Unused where labels are given."""
    lexicon: Location | None = None
    """JSON object of surface form -> node word that captions are judged by; null = the
    embedded COCO nouns."""
    max_new_tokens: PositiveInt = 96
    """Longest answer to a caption or open question, in tokens."""
    short_answer_tokens: PositiveInt = 16
    """Longest answer to any other question, in tokens."""
    max_pixels: PositiveInt = 40_000_000
    """Width times height of the largest image that is decoded; a larger one costs its rows."""
    batch_size: PositiveInt = 32
    """Questions of one forward pass; all questions about one image stay together."""
    shard_rows: PositiveInt = 256
    """Questions a shard; at most this much is redone by a worker that was killed."""
    readers: PositiveInt = 2
    """Threads of a worker that read, decode and prepare the next batch's images on the CPU."""

    @field_validator("layers")
    @classmethod
    def _from_the_embedding_on(cls, layers: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if layers and (min(layers) < -1 or len(set(layers)) < len(layers)):
            raise ValueError("expected different layers of -1 (the embeddings) or more")
        return layers

    @field_validator("sites")
    @classmethod
    def _each_once(cls, sites: tuple[SiteKind, ...]) -> tuple[SiteKind, ...]:
        if len(set(sites)) < len(sites):
            raise ValueError("expected every site once")
        return sites


class ExtractConfig(Frozen):
    """Extract activations and labels into `run.root`/`run.name`/activations."""

    run: RunConfig = RunConfig(name="extract")
    model: ModelConfig = ModelConfig()
    dataset: DatasetConfig = WorldDataset(scenes=1000, kinds=("yes_no", "color", "count"))
    labels: Location | None = None
    """CSV, JSONL or parquet with question_id and label (1 = hallucinated); null = the dataset's
    own labels if it has some, else the model's answers, judged."""
    extraction: ExtractSettings = ExtractSettings()
    resources: ResourcesConfig = ResourcesConfig()
    dry_run: bool = False
    """Check everything, print the plan, and stop before any work. Same as `--dry-run`."""
