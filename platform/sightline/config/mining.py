"""How preference pairs are mined from a model's own answers."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt

from sightline.config.base import Frozen, Location


class MineSettings(Frozen):
    """Conditions, judge and shards; the conditions are those of MMed-RAG."""

    conditions: tuple[Literal["cm", "oa1", "oa2", "caption"], ...] = ("cm", "oa1", "oa2", "caption")
    """Which rules make pairs: cross-modal, overall alignment (two), captions by CHAIR."""
    wrong_image: Literal["diffused", "noise", "other"] = "diffused"
    """The wrong image: another one after `noise_step` diffusion steps, pure noise, another one."""
    noise_step: int = Field(default=500, ge=0, le=999)
    """Step t of VCD's diffusion schedule (0 = nearly clean, 999 = noise)."""
    judge: str = Field(default="auto", pattern=r"^(auto|exact|normalized|yes_no|caption|[\w.]+:\w+)$")
    """How an answer is compared with the truth: auto (by the kind of question), exact,
    normalized, yes_no, caption, or your own `module:function`."""
    prompts: Literal["with_context", "without_context", "both"] = "both"
    """Which prompt a pair carries into training, where its example has a `Reference:`."""
    caption_conditions: bool = False
    """Also compare captions by cm, oa1 and oa2 (three more captions an image)."""
    caption_pairs: PositiveInt = 2
    """Most pairs made of one image's sampled captions."""
    retrieved: NonNegativeInt = 1
    """Texts retrieved into `Reference:`; 0 = none."""
    samples: PositiveInt = 8
    """Answers drawn for a caption; the best and worst make the pair."""
    temperature: NonNegativeFloat = 0.0
    """Sampling temperature of short answers; 0 = greedy."""
    caption_temperature: NonNegativeFloat = 0.9
    """Sampling temperature of captions."""
    max_new_tokens: PositiveInt = 96
    """Longest caption, in tokens."""
    short_answer_tokens: PositiveInt = 16
    """Longest answer to any other question, in tokens."""
    max_length_ratio: float = Field(default=1.3, ge=1.0)
    """Pairs of captions with one side longer than this many times the other are dropped."""
    max_yes_share: float = Field(default=0.4, ge=0.0, le=1.0)
    """Of the pairs between yes and no, at most this share may prefer yes; 1 = no limit."""
    lexicon: Location | None = None
    """JSON object of surface form -> node word that captions are judged by; null = the
    embedded COCO nouns."""
    batch_size: PositiveInt = 32
    """Examples a worker answers together."""
    shard_rows: PositiveInt = 256
    """Examples a shard; at most this much is redone by a worker that was killed."""
    seed: NonNegativeInt = 0
    """Seed of wrong images, noise and sampled answers."""
