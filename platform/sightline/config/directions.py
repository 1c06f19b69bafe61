"""`jobs/directions.py`: steering directions from pairs of captions and from perturbed images."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, NonNegativeInt, PositiveFloat, PositiveInt, Tag, model_validator

from sightline.config.base import Frozen, Location
from sightline.config.model import ModelConfig
from sightline.config.resources import ResourcesConfig
from sightline.config.run import RunConfig
from sightline.errors import ConfigError

# -- where pairs come from -----------------------------------------------------------------


class WorldPairs(Frozen):
    """Icon scenes: the faithful caption, and the same with things added that one would expect."""

    type: Literal["world"] = "world"
    """Which kind of source; decides which of the other fields exist."""
    scenes: PositiveInt = 200
    """Number of images, each with one pair."""
    seed: NonNegativeInt = 7
    """Seed of the scenes, of the `mine` stream: evaluation never meets them."""
    invented: PositiveInt = 2
    """Absent things that the hallucinated caption names."""


class _PairFile(Frozen):
    """What both kinds of file have in common."""

    path: Location
    """The file, one JSON object a line."""
    image_root: Location | None = None
    """Folder that relative image paths start from; null = the folder of the file."""
    limit: PositiveInt | None = None
    """Use so many of the pairs, drawn by `seed`; null = all. VTI's code draws 50 of its 100."""
    seed: NonNegativeInt = 42
    """Seed of that draw."""


class ChairPairs(_PairFile):
    """Captions with the words that CHAIR found hallucinated: `image`, `caption`, `hallucinated`.

    The clean caption is what remains without the sentences that hold such a word. CHAIR's own
    `mscoco_hallucinated_words` is read in the place of `hallucinated`.
    """

    type: Literal["chair"]
    """Which kind of source; decides which of the other fields exist."""


class VtiPairs(_PairFile):
    """VTI's own file (`hallucination_vti_demos.jsonl`): image, question, value (clean), h_value."""

    type: Literal["vti"]
    """Which kind of source; decides which of the other fields exist."""


def _type_of(default: str) -> Any:
    """A discriminator under which `type` may be left out."""
    return lambda value: str(value.get("type", default) if isinstance(value, dict) else value.type)


PairsConfig = Annotated[
    Annotated[WorldPairs, Tag("world")]
    | Annotated[ChairPairs, Tag("chair")]
    | Annotated[VtiPairs, Tag("vti")],
    Discriminator(
        _type_of("world"),
        custom_error_type="unknown_type",
        custom_error_message="type must be one of world, chair, vti",
    ),
    Field(description="Where pairs of captions, and their images, come from."),
]
"""`pairs.type` chooses; the default is world."""

# -- how images are perturbed --------------------------------------------------------------


class Mask(Frozen):
    """A share of the patches takes the picture's mean colour; VTI's choice."""

    type: Literal["mask"] = "mask"
    """Which disturbance; decides which of the other fields exist."""
    ratio: float = Field(default=0.99, gt=0.0, le=1.0)
    """Share of the patches that is masked."""


class Blur(Frozen):
    """Gaussian blur, its radius drawn anew in each trial."""

    type: Literal["blur"]
    """Which disturbance; decides which of the other fields exist."""
    radius: PositiveFloat = 4.0
    """Largest standard deviation in pixels of the image as it came; drawn evenly from 0 up."""


class Noise(Frozen):
    """VCD's diffusion noise, drawn anew in each trial."""

    type: Literal["noise"]
    """Which disturbance; decides which of the other fields exist."""
    step: int = Field(default=500, ge=0, le=999)
    """Of 1,000 diffusion steps; at 500 the image keeps 86% of its signal, at 999 29%."""


class Brightness(Frozen):
    """Every pixel times one factor, drawn anew in each trial."""

    type: Literal["brightness"]
    """Which disturbance; decides which of the other fields exist."""
    spread: float = Field(default=0.5, gt=0.0, le=1.0)
    """The factor is drawn evenly from 1 - spread to 1 + spread."""


Perturbation = Annotated[
    Annotated[Mask, Tag("mask")]
    | Annotated[Blur, Tag("blur")]
    | Annotated[Noise, Tag("noise")]
    | Annotated[Brightness, Tag("brightness")],
    Discriminator(
        _type_of("mask"),
        custom_error_type="unknown_type",
        custom_error_message="type must be one of mask, blur, noise, brightness",
    ),
    Field(description="How images are perturbed for the visual direction."),
]
"""`perturbation.type` chooses; the default is mask."""

# -- the job -------------------------------------------------------------------------------


class DeriveSettings(Frozen):
    """How directions are made of hidden states."""

    kinds: tuple[Literal["text", "visual"], ...] = Field(default=("text", "visual"), min_length=1)
    """Which directions: of the decoder (text), of the vision tower (visual)."""
    mode: Literal["paper", "released"] = "paper"
    """`released` follows VTI's code in what differs: `sightline.interventions.derive` says in what."""
    rank: PositiveInt = 1
    """Principal axes that are added to the mean difference."""
    trials: PositiveInt = 50
    """Perturbed versions of an image that are averaged."""
    tokens: Literal["each", "mean"] = "each"
    """Visual: a direction for each token of a picture, or one for all (the mean over its tokens), which
    is what images that differ in their number of tokens (Qwen) need."""
    seed: NonNegativeInt = 42
    """Seed of the perturbations. With the image's content it settles every trial."""
    max_pixels: PositiveInt = 40_000_000
    """Width times height of the largest image that is decoded; a larger one costs its rows."""
    batch_size: PositiveInt = 32
    """Captions, or perturbed images, of one forward pass."""
    shard_rows: PositiveInt = 16
    """Pairs, or images, a shard; at most this much is redone by a worker that was killed."""

    @model_validator(mode="after")
    def _each_kind_once(self) -> DeriveSettings:
        if len(set(self.kinds)) < len(self.kinds):
            raise ConfigError(expected="every kind of direction once", got=", ".join(self.kinds))
        return self


class DirectionsConfig(Frozen):
    """Derive steering directions into `run.root`/`run.name`/directions."""

    run: RunConfig = RunConfig(name="directions")
    model: ModelConfig = ModelConfig()
    pairs: PairsConfig = WorldPairs()
    perturbation: Perturbation = Mask()
    derive: DeriveSettings = DeriveSettings()
    save_to: Location | None = None
    """A folder that gets each kind by itself as well, as `text/` and `visual/`: how the reference
    VLM's own lie in the package (`save_to=platform/sightline/world/directions`). null = none."""
    resources: ResourcesConfig = ResourcesConfig()
    dry_run: bool = False
    """Check everything, print the plan, and stop before any work. Same as `--dry-run`."""
