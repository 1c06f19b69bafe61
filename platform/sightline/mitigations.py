"""A model with what `mitigations:` says: its interventions as one stack, and its decoder.

The one place that turns settings into objects. It knows no formula: those are in
`interventions` and `decoding`, which check by themselves what they can act on.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, assert_never

from sightline.config.decoders import (
    BeamConfig,
    DolaConfig,
    GreedyConfig,
    IcdConfig,
    OperaConfig,
    RcdConfig,
    SampleConfig,
    VcdConfig,
)
from sightline.config.interventions import PaiConfig, SpinConfig, SteerConfig, VtiConfig
from sightline.config.mitigations import Mitigation, is_decoder, mitigations_of, to_text
from sightline.errors import InterventionError
from sightline.records import Answer

if TYPE_CHECKING:
    from sightline.decoding.base import Decoder
    from sightline.interventions.base import Intervention
    from sightline.interventions.directions import Directions
    from sightline.models.prompts import Prompt
    from sightline.models.vlm import Vlm


class Mitigated:
    """Answers prompts with mitigations on; between calls the model is as it was.

    `mitigations` may be settings, mappings or short texts (`spin:k=0.8`). What cannot work is
    refused here, before a prompt is seen: ConfigError for a list that contradicts itself,
    InterventionError or ModelError for what this model does not allow.
    """

    def __init__(self, vlm: Vlm, mitigations: Sequence[Mitigation | str] = ()):
        from sightline.interventions.stack import Stack

        self.vlm = vlm
        self.mitigations = mitigations_of(mitigations)
        self.stack = Stack([i for item in self.mitigations for i in interventions_of(vlm, item)])
        deciding = next((item for item in self.mitigations if is_decoder(item)), None)
        self.decoder = decoder_of(deciding) if deciding is not None else None
        self._seed = getattr(deciding, "seed", 0)
        self.stack.check(vlm)
        if self.decoder is not None:
            self.decoder.check(vlm)

    def generate(
        self, prompts: Sequence[Prompt], *, max_new_tokens: int = 64, batch_size: int = 16
    ) -> list[Answer]:
        """One answer a prompt, in order.

        An answer depends on its prompt alone, not on its neighbours or `batch_size` (up to
        float noise). Raises ModelError for prompts that the decoder cannot take (a contrast
        with the image or the Reference left out needs one).
        """
        if not prompts:
            return []
        with self.stack.attached(self.vlm):
            if self.decoder is not None:
                return self.decoder.generate(
                    self.vlm,
                    prompts,
                    max_new_tokens=max_new_tokens,
                    batch_size=batch_size,
                    seed=self._seed,
                )
            samples = self.vlm.generate(prompts, max_new_tokens=max_new_tokens, batch_size=batch_size)
            return [answers[0] for answers in samples]

    def describe(self) -> str:
        """`spin:k=0.8 + vti`: the list as short texts, what is left at its default unsaid."""
        return " + ".join(to_text(item) for item in self.mitigations) or "greedy"


def interventions_of(vlm: Vlm, item: Mitigation) -> list[Intervention]:
    """What one item attaches; a strength of 0 attaches nothing, a decoder neither."""
    from sightline.interventions.pai import Pai
    from sightline.interventions.spin import Spin
    from sightline.interventions.steering import AddSteering, TextVti, VisualVti

    match item:
        case VtiConfig():
            found: list[Intervention] = []
            if item.image:
                directions = directions_for(vlm, item.directions, "visual")
                found.append(VisualVti(directions, item.image, mode=item.mode))
            if item.text:
                directions = directions_for(vlm, item.directions, "text")
                found.append(TextVti(directions, item.text, layers=item.layers, mode=item.mode))
            return found
        case SteerConfig():
            directions = directions_for(vlm, item.directions, "text")
            return [AddSteering(directions, item.strength, layers=item.layers, scope=item.scope)]
        case SpinConfig():
            return [Spin(item.k, item.alpha, layers=item.layers, mode=item.mode)]
        case PaiConfig():
            return [Pai(item.alpha, layers=item.layers)] if item.alpha else []
        case _:
            return []


def decoder_of(item: Mitigation) -> Decoder | None:
    """The decoder that an item names; None is the model's own greedy decoding."""
    from sightline.decoding.beams import Beams
    from sightline.decoding.contrastive import (
        Contrast,
        ContrastiveDecoder,
        DiffusedImage,
        Disturbed,
        NoImage,
        NoReference,
    )
    from sightline.decoding.dola import DolaDecoder
    from sightline.decoding.opera import Opera
    from sightline.decoding.retrospection import OverTrust
    from sightline.decoding.sampling import Sampler

    match item:
        case GreedyConfig() | VtiConfig() | SteerConfig() | SpinConfig():
            return None
        case BeamConfig():
            return Beams(item.num_beams, item.length_penalty)
        case SampleConfig():
            return Sampler(item.temperature, item.top_p, item.top_k)
        case PaiConfig():
            return ContrastiveDecoder(NoImage(), Contrast.guidance(item.gamma))
        case VcdConfig():
            temperature = 1.0 if item.mode == "released" else 0.0
            view, contrast = DiffusedImage(item.noise_step), Contrast(item.alpha, item.beta)
            return ContrastiveDecoder(view, contrast, temperature)
        case RcdConfig():
            return ContrastiveDecoder(NoReference(), Contrast(item.alpha, item.beta))
        case IcdConfig():
            return ContrastiveDecoder(Disturbed(item.instruction), Contrast(item.alpha, item.beta))
        case DolaConfig():
            return DolaDecoder(item.layers, item.relative_top, item.mode)
        case OperaConfig():
            settings = item.model_dump(exclude={"type"})
            return Opera(OverTrust(**settings))
        case _:
            assert_never(item)


# -- directions ---------------------------------------------------------------------------


def packaged_directions(kind: Literal["text", "visual"]) -> Path:
    """Where the reference VLM's own directions lie."""
    return Path(str(files("sightline.world"))) / "directions" / kind


def directions_for(vlm: Vlm, folder: str | None, kind: Literal["text", "visual"]) -> Directions:
    """The directions in `folder`; None = the packaged ones, which fit the reference VLM alone.

    Raises InterventionError when these are asked for with another model, StorageError for a
    folder without directions. Whether they fit the model is their own `check`.
    """
    from sightline.interventions.directions import Directions

    if folder is not None:
        return Directions.load(folder)
    packaged = Directions.load(packaged_directions(kind))
    if packaged.identity != vlm.identity:
        raise InterventionError(
            expected=f"{kind} directions of {vlm.source}",
            got="none, and those in the package are the reference VLM's",
            hint=f"`python jobs/directions.py model.source={vlm.source}` makes them; then say "
            "directions=runs/directions/directions",
        )
    return packaged


def recorded(mitigations: Sequence[Mitigation]) -> list[dict[str, Any]]:
    """What answers depend on, as JSON: every setting; of directions their contents, not their place."""
    from sightline.interventions.directions import Directions

    records = []
    for item in mitigations:
        record = item.model_dump(mode="json")
        if isinstance(item, VtiConfig | SteerConfig):
            visual = isinstance(item, VtiConfig) and item.image != 0
            folders = (
                [item.directions]
                if item.directions
                else [packaged_directions(kind) for kind in (("text", "visual") if visual else ("text",))]
            )
            record["directions"] = [Directions.load(folder).digest for folder in folders]
        records.append(record)
    return records
