"""A model with what `mitigations:` says: its interventions as one stack, and its decoder.

The one place that turns settings into objects. It knows no formula: those are in
`interventions` and `decoding`, which check by themselves what they can act on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sightline.config.mitigations import Mitigation, mitigations_of, to_text
from sightline.records import Answer

if TYPE_CHECKING:
    from sightline.models.prompts import Prompt
    from sightline.models.vlm import Vlm


class Mitigated:
    """Answers prompts with mitigations on; between calls the model is as it was.

    `mitigations` may be settings, mappings or short texts (`spin:k=0.8`). Everything that
    cannot work is refused here, before a prompt is seen: ConfigError for a list that
    contradicts itself, InterventionError or ModelError for what this model does not allow.
    """

    def __init__(self, vlm: Vlm, mitigations: Sequence[Mitigation | str] = ()):
        self.vlm = vlm
        self.mitigations = mitigations_of(mitigations)

    def generate(
        self, prompts: Sequence[Prompt], *, max_new_tokens: int = 64, batch_size: int = 16
    ) -> list[Answer]:
        """One answer a prompt, in order."""
        samples = self.vlm.generate(prompts, max_new_tokens=max_new_tokens, batch_size=batch_size)
        return [answers[0] for answers in samples]

    def describe(self) -> str:
        """`spin:k=0.8 + vti`: the list as short texts, what is left at its default unsaid."""
        return " + ".join(to_text(item) for item in self.mitigations) or "greedy"


def recorded(mitigations: Sequence[Mitigation]) -> list[dict[str, Any]]:
    """What answers depend on: every setting, and the contents of the directions."""
    return [item.model_dump(mode="json") for item in mitigations]
