"""Steering along directions: added plainly, or as VTI's turn that keeps the length.

Source: Liu, Ye, Xing, Zou, "Reducing Hallucinations in Vision-Language Models via Latent Space
Steering" (VTI, ICLR 2025; code `shengliu66/VTI`, `vti_utils/llm_layers.py`). Where the
directions come from is in `derive`; what they are kept in, in `directions`.

Names: D width of the block, L layers, P tokens of one picture, or 1.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, ClassVar, Literal

import torch

from sightline.interventions.base import Calls, Intervention, check_finite, chosen_layers
from sightline.interventions.directions import Directions
from sightline.models.passes import Passes, listening
from sightline.models.vlm import Vlm

Mode = Literal["paper", "released"]
VTI_STEP = 0.1
"""VTI's step on the unit sphere at strength 1."""


class AddSteering(Intervention):
    """block output += strength * direction, at every token or at decoded tokens only.

    The plain form of activation steering: what `bake` can write into weights. With scope
    `decode` the prompt stays as it is; a given answer that is scored is steered as if it
    were being decoded, token by token.
    """

    name = "steer"
    order = 20

    def __init__(
        self,
        directions: Directions,
        strength: float = 1.0,
        *,
        layers: Sequence[int] | None = None,
        scope: Literal["all", "decode"] = "all",
    ):
        """`layers` None: every decoder block."""
        self.directions, self.strength, self.layers, self.scope = directions, strength, layers, scope

    def check(self, vlm: Vlm) -> None:
        check_finite(self.name, "strength", self.strength)
        chosen_layers(self.name, self.layers, vlm.num_layers)
        self.directions.text_of(vlm)

    def shifts(self, vlm: Vlm) -> dict[int, torch.Tensor]:
        """Layer -> what is added to its block's output, float32 (D,)."""
        text_LD = self.directions.text_of(vlm)
        layers = chosen_layers(self.name, self.layers, vlm.num_layers)
        return {layer: self.strength * text_LD[layer] for layer in layers}

    @contextmanager
    def attached(self, vlm: Vlm, calls: Calls) -> Iterator[None]:
        blocks = vlm.adapter.text_blocks(vlm.model)
        with listening(vlm) as passes, ExitStack() as undo:
            for layer, shift_D in self.shifts(vlm).items():
                act = self._adding(_beside(blocks[layer], shift_D, keep_dtype=False), passes)
                hook = _output_hook(calls.counted(f"{self.name} at block {layer}", act))
                # First of all hooks: transformers' recorder of hidden states may be there before.
                undo.callback(blocks[layer].register_forward_hook(hook, prepend=True).remove)
            yield

    def _adding(self, shift_D: torch.Tensor, passes: Passes) -> Callable[[torch.Tensor], torch.Tensor]:
        def everywhere(output_BTD: torch.Tensor) -> torch.Tensor:
            return output_BTD + shift_D

        def decoded(output_BTD: torch.Tensor) -> torch.Tensor:
            current = passes.current
            if current.phase == "decode":
                return output_BTD + shift_D
            groups, places = current.group_Q[current.answer_Q], current.place_Q[current.answer_Q]
            steered_BTD = output_BTD.clone()
            steered_BTD[groups, places] += shift_D
            return steered_BTD

        return everywhere if self.scope == "all" else decoded


class _Vti(Intervention):
    """VTI's step at the output of every chosen MLP, before the residual addition, at every token.

    x' = normalize(normalize(x) + 0.1 * strength * normalize(direction)) * |x|

    paper     computed in float32, and given back in x's own precision.
    released  the result is rounded to half precision, as the published layer's `.half()`
              does (which mixes precisions in a model that is not in half).
    """

    in_vision: ClassVar[bool]

    def __init__(
        self,
        directions: Directions,
        strength: float,
        *,
        layers: Sequence[int] | None = None,
        mode: Mode = "paper",
    ):
        """`layers` None: every block."""
        self.directions, self.strength, self.layers, self.mode = directions, strength, layers, mode

    @abstractmethod
    def mlps(self, vlm: Vlm) -> list[Any]:
        """The MLPs of all blocks."""

    @abstractmethod
    def of_layers(self, vlm: Vlm) -> torch.Tensor:
        """A direction for each of them, checked: (L, D) or (L, P, D)."""

    def check(self, vlm: Vlm) -> None:
        check_finite(self.name, "strength", self.strength)
        chosen_layers(self.name, self.layers, len(self.mlps(vlm)))
        self.of_layers(vlm)

    @contextmanager
    def attached(self, vlm: Vlm, calls: Calls) -> Iterator[None]:
        mlps, directions = self.mlps(vlm), self.of_layers(vlm)
        with ExitStack() as undo:
            for layer in chosen_layers(self.name, self.layers, len(mlps)):
                step = VTI_STEP * self.strength * torch.nn.functional.normalize(directions[layer], dim=-1)
                act = self._turning(_beside(mlps[layer], step, keep_dtype=True))
                name = f"{self.name} at block {layer}"
                hook = _output_hook(calls.counted(name, act, vision=self.in_vision))
                undo.callback(mlps[layer].register_forward_hook(hook).remove)
            yield

    def _turning(self, step: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
        def paper(output: torch.Tensor) -> torch.Tensor:
            return turned(output, step).to(output.dtype)

        def released(output: torch.Tensor) -> torch.Tensor:
            return turned(output, step).half().to(output.dtype)

        return paper if self.mode == "paper" else released


class TextVti(_Vti):
    """VTI in the decoder: one direction a block, from hallucinated towards clean captions."""

    name = "text_vti"
    order = 20
    in_vision = False

    def __init__(
        self,
        directions: Directions,
        strength: float = 0.8,
        *,
        layers: Sequence[int] | None = None,
        mode: Mode = "paper",
    ):
        """`strength` 0.8 is the released default, 0.9 its README's."""
        super().__init__(directions, strength, layers=layers, mode=mode)

    def mlps(self, vlm: Vlm) -> list[Any]:
        return vlm.adapter.text_mlps(vlm.model)

    def of_layers(self, vlm: Vlm) -> torch.Tensor:
        return self.directions.text_of(vlm)


class VisualVti(_Vti):
    """VTI in the vision tower: a direction for each block and each token of a picture.

    Every tile of an image is a picture and gets the same directions. Directions for another
    number of tokens than this tower's are refused; a direction that all tokens share (their
    mean, `Directions.shared`) fits any number, and is what Qwen's towers need.
    """

    name = "visual_vti"
    order = 10
    in_vision = True

    def __init__(
        self,
        directions: Directions,
        strength: float = 0.9,
        *,
        layers: Sequence[int] | None = None,
        mode: Mode = "paper",
    ):
        """`strength` 0.9 is the released README's; the code's default of 0 is no step."""
        super().__init__(directions, strength, layers=layers, mode=mode)

    def mlps(self, vlm: Vlm) -> list[Any]:
        return vlm.adapter.vision_mlps(vlm.model)

    def of_layers(self, vlm: Vlm) -> torch.Tensor:
        return self.directions.visual_of(vlm)


def turned(x: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
    """normalize(normalize(x) + step) * |x| along the last axis, in float32; 0 stays 0.

    Written with one division: |x| * (x + |x| step) / |x + |x| step|.
    """
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
    moved = torch.addcmul(x.float(), length, step)
    moved_length = torch.linalg.vector_norm(moved, dim=-1, keepdim=True)
    return moved * (length / moved_length.clamp_min(torch.finfo(torch.float32).tiny))


def _beside(module: Any, tensor: torch.Tensor, *, keep_dtype: bool) -> torch.Tensor:
    """The tensor on a module's device (a model may be spread over several), in its precision or its own."""
    weight = next(module.parameters())
    return tensor.to(weight.device, tensor.dtype if keep_dtype else weight.dtype)


def _output_hook(act: Callable[[torch.Tensor], torch.Tensor]) -> Callable[..., torch.Tensor]:
    """A forward hook that replaces a module's one output."""
    return lambda module, args, output: act(output)
