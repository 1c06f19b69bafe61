"""The settings of methods that change how the next token is chosen.

Defaults are the papers' (METHODS 1.8 to 1.10) or transformers'. The contrastive ones
share one formula, (1 + alpha) z - alpha z', over tokens that are plausible by z alone:
p >= beta * max p.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, field_validator

from sightline.config.base import Frozen
from sightline.config.interventions import Finite, Mode, NonNegativeFinite, Share
from sightline.config.layers import Layers

Several = Annotated[int, Field(ge=2)]
PositiveFinite = Annotated[PositiveFloat, Field(allow_inf_nan=False)]


class GreedyConfig(Frozen):
    """The most likely token at each step: the default, and every comparison's baseline."""

    type: Literal["greedy"] = "greedy"
    """Which method; decides which of the other fields exist."""


class BeamConfig(Frozen):
    """Beam search, as transformers has it."""

    type: Literal["beam"] = "beam"
    """Which method; decides which of the other fields exist."""
    num_beams: Several = 5
    """Beams a prompt, at least 2."""
    length_penalty: Finite = 1.0
    """Exponent of the length that a beam's log-probability is divided by."""


class SampleConfig(Frozen):
    """Sampling at a temperature, from the likeliest tokens, as transformers has it."""

    type: Literal["sample"] = "sample"
    """Which method; decides which of the other fields exist."""
    temperature: PositiveFinite = 1.0
    """Divides the logits; towards 0 it becomes greedy."""
    top_p: Annotated[float, Field(gt=0.0, le=1.0, allow_inf_nan=False)] = 1.0
    """Probability that the tokens drawn from hold together; 1 = all tokens."""
    top_k: NonNegativeInt = 0
    """How many tokens are drawn from; 0 = all."""
    seed: NonNegativeInt = 0
    """An answer depends on it and on its prompt alone."""


class VcdConfig(Frozen):
    """Visual contrastive decoding (VCD, CVPR 2024): against the same image under diffusion noise."""

    type: Literal["vcd"] = "vcd"
    """Which method; decides which of the other fields exist."""
    alpha: NonNegativeFinite = 1.0
    """Weight of the contrast; 0 = greedy."""
    beta: Share = 0.1
    """Smallest plausible share of the likeliest token's probability; 0 = all tokens are plausible."""
    noise_step: Annotated[int, Field(ge=0, le=999)] = 500
    """Step of the diffusion, 0 to 999; at 500 the image is still 86 % signal."""
    seed: NonNegativeInt = 0
    """Of the noise; an image's noise depends on it and on the image alone."""
    mode: Mode = "paper"
    """`paper` takes the best score, as greedy decoding does; `released` can only sample at
    temperature 1, as the published code."""


class RcdConfig(Frozen):
    """Retrieval-contrastive decoding: with the Reference, against the same question without it."""

    type: Literal["rcd"] = "rcd"
    """Which method; decides which of the other fields exist."""
    alpha: NonNegativeFinite = 1.0
    """Weight of the contrast; 0 = greedy."""
    beta: Share = 0.1
    """Smallest plausible share of the likeliest token's probability; 0 = all tokens are plausible."""


class IcdConfig(Frozen):
    """Instruction-contrastive decoding (IBD type): against a question that invites to make things up."""

    type: Literal["icd"] = "icd"
    """Which method; decides which of the other fields exist."""
    alpha: NonNegativeFinite = 1.0
    """Weight of the contrast; 0 = greedy."""
    beta: Share = 0.1
    """Smallest plausible share of the likeliest token's probability; 0 = all tokens are plausible."""
    instruction: str = Field(default="You are a confused object detector.", min_length=1)
    """Put in front of the question in the second stream. No `, name=` in it: that begins a setting."""

    @field_validator("instruction")
    @classmethod
    def _one_setting(cls, text: str) -> str:
        if text != text.strip() or re.search(r",\s*[a-z_]+=", text):
            raise ValueError("expected an instruction without outer spaces and without `, name=`")
        return text


class DolaConfig(Frozen):
    """Layer contrast (DoLa, ICLR 2024): the last layer against the earlier one that differs most."""

    type: Literal["dola"] = "dola"
    """Which method; decides which of the other fields exist."""
    layers: Literal["low", "high"] | Layers = "low"
    """Candidates: the paper's even layers of the lower or upper half (it counts the embedding
    as 0; left out where it is tied to the head), or blocks such as 0+2+4."""
    relative_top: Share = 0.1
    """Smallest plausible share of the likeliest token's probability; 0 = all tokens are plausible."""
    mode: Mode = "paper"
    """`paper`: final norm on early states, true Jensen-Shannon divergence; `released`: neither, as
    the code. In both each sample chooses its own layer."""


class OperaConfig(Frozen):
    """Over-trust penalty and rollback (OPERA, CVPR 2024) on beam search."""

    type: Literal["opera"] = "opera"
    """Which method; decides which of the other fields exist."""
    num_beams: Several = 5
    """Beams a prompt, at least 2."""
    scale: PositiveFinite = 50.0
    """Factor of the attention in the local window before it is multiplied down a column."""
    threshold: PositiveInt = 15
    """How often the window must point at one place before all beams roll back to it."""
    candidates: Several = 5
    """Likeliest tokens of a beam that are tried, at least 2, and most rollbacks to one place."""
    penalty: NonNegativeFinite = 1.0
    """Weight of the penalty on a token's score; 0 = beam search over the candidates."""
    mode: Mode = "paper"
    """`released` judges the first 10 tokens by their attention on the image, rounds products to
    half precision, and lets histories stay behind when beams change, as the published code."""


DECODERS = (
    GreedyConfig,
    BeamConfig,
    SampleConfig,
    VcdConfig,
    RcdConfig,
    IcdConfig,
    DolaConfig,
    OperaConfig,
)
