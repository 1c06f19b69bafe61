"""Steering directions as an artefact: safetensors and JSON with provenance, never pickle.

directions.safetensors   text_LD and/or visual_LPD, float32
directions.json          the model they belong to, how they came about; format `FORMAT`

Directions belong to one model at one revision: in another model's hidden states they point
anywhere. The model's identity (a hash of weights, processor and template) says which.

Names: L layers, D width of the text model, P tokens of one picture (a class token included)
or 1 for a direction that all tokens share, W width of the vision tower.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from sightline.errors import DataError, InterventionError, StorageError
from sightline.models.vlm import Vlm

TENSORS, DESCRIPTION = "directions.safetensors", "directions.json"
FORMAT = 1
LAYERS = "layer i is the output of block i (from 0, before the final norm); the embedding has no entry"
"""The convention of the layer axis, written beside all directions."""

Mode = Literal["paper", "released"]


@dataclass(frozen=True, slots=True, eq=False)
class Directions:
    """One direction a decoder block, or one a token of every vision block, or both.

    Raises DataError when there is neither, or one is not finite or has another number of axes.
    """

    identity: str
    """`Vlm.identity` of the model whose hidden states these are differences of."""
    text_LD: torch.Tensor | None = None
    """float32, on the CPU."""
    visual_LPD: torch.Tensor | None = None
    """(L, P, W) or (L, 1, W), float32, on the CPU."""
    source: str = ""
    """Where that model came from, for messages."""
    revision: str = ""
    mode: Mode = "paper"
    """How they were derived; see `derive`."""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """Pairs, seed, rank, ... as plain JSON values."""

    def __post_init__(self) -> None:
        if not self.tensors():
            raise DataError(expected="textual or visual directions", got="neither")
        for name, tensor in self.tensors().items():
            axes = 2 if name == "text_LD" else 3
            if tensor.ndim != axes:
                raise DataError(expected=f"{name} with {axes} axes", got=f"shape {tuple(tensor.shape)}")
            if not bool(torch.isfinite(tensor).all()):
                bad = [i for i, layer in enumerate(tensor) if not bool(torch.isfinite(layer).all())]
                raise DataError(
                    expected=f"finite directions in {name}",
                    got=f"NaN or infinity in layer {bad[0]}"
                    + (f" and {len(bad) - 1} more" if bad[1:] else ""),
                    hint="derive them again with `python jobs/directions.py`",
                )

    @classmethod
    def of(cls, vlm: Vlm, **given: Any) -> Directions:
        """Directions of this model: identity, source and revision are taken from it."""
        return cls(vlm.identity, source=vlm.source, revision=vlm.revision, **given)

    def tensors(self) -> dict[str, torch.Tensor]:
        """The tensors that are there, by name."""
        both = {"text_LD": self.text_LD, "visual_LPD": self.visual_LPD}
        return {name: tensor for name, tensor in both.items() if tensor is not None}

    @property
    def kind(self) -> str:
        """`text`, `visual` or `text+visual`."""
        return "+".join(name.split("_")[0] for name in self.tensors())

    @property
    def digest(self) -> str:
        """A hash of the numbers and of the model they belong to: what results depend on."""
        digest = hashlib.sha256(self.identity.encode())
        for name, tensor in self.tensors().items():
            digest.update(f"{name} {tuple(tensor.shape)}".encode())
            digest.update(tensor.float().contiguous().numpy().tobytes())
        return digest.hexdigest()[:32]

    # -- files ----------------------------------------------------------------------------
    def save(self, folder: str | Path) -> None:
        """Write both files into a folder, made if need be."""
        from safetensors.torch import save_file

        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        tensors = {name: tensor.float().contiguous() for name, tensor in self.tensors().items()}
        save_file(tensors, path / TENSORS)
        description = {
            "format": FORMAT,
            "kind": self.kind,
            "mode": self.mode,
            "model": {"identity": self.identity, "source": self.source, "revision": self.revision},
            "shapes": {name: list(tensor.shape) for name, tensor in tensors.items()},
            "layer_convention": LAYERS,
            "provenance": dict(self.provenance),
        }
        (path / DESCRIPTION).write_text(json.dumps(description, indent=2, allow_nan=False) + "\n")

    @classmethod
    def load(cls, folder: str | Path) -> Directions:
        """Read them back. Raises StorageError naming what is missing, broken or of another format."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        path = Path(folder)
        try:
            description = json.loads((path / DESCRIPTION).read_text())
            tensors = load_file(path / TENSORS)
        except (OSError, ValueError, SafetensorError) as error:
            raise StorageError(
                expected=f"directions ({TENSORS} and {DESCRIPTION}) in {path}",
                got=str(error),
                hint="derive them with `python jobs/directions.py`",
            ) from error
        if description.get("format") != FORMAT:
            raise StorageError(
                expected=f"directions of format {FORMAT} in {path}", got=f"format {description.get('format')}"
            )
        if {name: list(tensor.shape) for name, tensor in tensors.items()} != description["shapes"]:
            raise StorageError(
                expected=f"the tensors that {path / DESCRIPTION} describes",
                got="others",
                hint="the two files are of different runs; derive them again",
            )
        model = description["model"]
        return cls(
            model["identity"],
            tensors.get("text_LD"),
            tensors.get("visual_LPD"),
            model["source"],
            model["revision"],
            description["mode"],
            description["provenance"],
        )

    # -- against a model ------------------------------------------------------------------
    def text_of(self, vlm: Vlm) -> torch.Tensor:
        """text_LD, checked: one direction of this very model for each of its decoder blocks.

        Raises InterventionError when there is none, or it is of another model or revision.
        """
        width = vlm.adapter.text_width(vlm.model)
        return self._checked(vlm, "text_LD", (vlm.num_layers, width))

    def visual_of(self, vlm: Vlm) -> torch.Tensor:
        """visual_LPD, checked like `text_of`: for each vision block and each token, or one for all."""
        layers, width = len(vlm.adapter.vision_blocks(vlm.model)), vlm.adapter.vision_width(vlm.model)
        tokens = 1 if self.visual_LPD is None else self.visual_LPD.shape[1]
        fixed = vlm.adapter.vision_tokens(vlm.model)
        if tokens not in (1, fixed):
            raise InterventionError(
                expected=f"a direction for each of {fixed} tokens of a picture, or one for all"
                if fixed is not None
                else "one direction for all tokens: this model's pictures differ in their number of tokens",
                got=f"{tokens}",
                hint="use the tokens' mean: `Directions.shared`, or derive.tokens=mean in jobs/directions.py",
            )
        return self._checked(vlm, "visual_LPD", (layers, tokens, width))

    def _checked(self, vlm: Vlm, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        tensor = self.tensors().get(name)
        if tensor is None:
            raise InterventionError(
                expected="directions with a textual part"
                if name == "text_LD"
                else "directions with a visual part",
                got=f"{self.kind} only",
                hint="derive them with `python jobs/directions.py`",
            )
        if self.identity != vlm.identity:
            raise InterventionError(
                expected=f"directions of the model in use, {_named(vlm.source, vlm.revision, vlm.identity)}",
                got=f"those of {_named(self.source, self.revision, self.identity)}",
                hint="another model or revision needs its own: `python jobs/directions.py`",
            )
        if tuple(tensor.shape) != shape:
            raise InterventionError(
                expected=f"{name} of shape {shape}, as this model has", got=f"{tuple(tensor.shape)}"
            )
        return tensor

    def shared(self) -> Directions:
        """The same with one visual direction a layer, the mean over its tokens."""
        if self.visual_LPD is None:
            return self
        mean_L1D = self.visual_LPD.mean(1, keepdim=True)
        return Directions(
            self.identity, self.text_LD, mean_L1D, self.source, self.revision, self.mode, self.provenance
        )


def _named(source: str, revision: str, identity: str) -> str:
    name = f"{source or 'memory'}@{revision}" if revision else source or "memory"
    return f"{name} ({identity[:12]})"
