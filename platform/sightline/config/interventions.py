"""The settings of methods that change what happens inside the model while it decodes.

Defaults are the papers' (METHODS 1.1, 1.2). `mode`: `paper` is the corrected mathematics,
`released` follows the published code where that differs in numbers.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat

from sightline.config.base import Frozen, Location
from sightline.config.layers import Layers

Mode = Literal["paper", "released"]
Share = Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False)]
"""A number from 0 to 1."""
Finite = Annotated[float, Field(allow_inf_nan=False)]
NonNegativeFinite = Annotated[NonNegativeFloat, Field(allow_inf_nan=False)]


class VtiConfig(Frozen):
    """Visual and textual steering (Liu et al., Reducing Hallucinations in VLMs via Latent Space Steering).

    At every token, the MLP's output turns towards the layer's direction and keeps its length.
    """

    type: Literal["vti"] = "vti"
    """Which method; decides which of the other fields exist."""
    text: Finite = 0.8
    """Strength in the decoder; the step is 0.1 of it on the unit sphere. 0 = none, negative = away."""
    image: Finite = 0.0
    """Strength in the vision tower, 0.9 in the paper's README; 0 = none. Needs visual directions."""
    directions: Location | None = None
    """Folder that `jobs/directions.py` wrote; null = those packaged for the reference VLM."""
    layers: Layers | None = None
    """Decoder blocks of the textual part, such as 0-12; null = all."""
    mode: Mode = "paper"
    """`released` rounds to half precision as the published layer does."""


class SteerConfig(Frozen):
    """Plain steering: strength times the layer's direction is added to the block's output."""

    type: Literal["steer"] = "steer"
    """Which method; decides which of the other fields exist."""
    strength: Finite = 1.0
    """Factor of the direction; 0 = none, negative = away from it."""
    directions: Location | None = None
    """Folder that `jobs/directions.py` wrote; null = those packaged for the reference VLM."""
    layers: Layers | None = None
    """Decoder blocks, such as 0-12; null = all that the directions have."""
    scope: Literal["all", "decode"] = "all"
    """`all` tokens (what `sightline bake` can write into weights), or those being `decode`d only."""


class SpinConfig(Frozen):
    """Image-guided head suppression (SPIN, EMNLP 2025).

    For each token being decoded, the heads that look least at the image are turned down.
    """

    type: Literal["spin"] = "spin"
    """Which method; decides which of the other fields exist."""
    k: Share = 0.95
    """Share of a layer's heads that is kept; the rest is suppressed."""
    alpha: Share = 0.08
    """Factor of a suppressed head's output; 0 = silent, 1 = untouched."""
    layers: Layers | None = None
    """Decoder blocks, such as 0-31; null = all."""
    mode: Mode = "paper"
    """`paper` ranks heads by attention on the image, `released` by logits before the softmax."""


class PaiConfig(Frozen):
    """Attention boost (PAI, ECCV 2024): attention logits on the image grow by alpha times their size."""

    type: Literal["pai"] = "pai"
    """Which method; decides which of the other fields exist."""
    alpha: NonNegativeFinite = 0.2
    """Growth of the logits; 0 = none."""
    layers: Layers | None = None
    """Decoder blocks, such as 2-31; null = all."""
    gamma: NonNegativeFinite = 1.0
    """Guidance against the same question without the image; 1 = none. Above, it is a decoder too."""


INTERVENTIONS = (VtiConfig, SteerConfig, SpinConfig, PaiConfig)
