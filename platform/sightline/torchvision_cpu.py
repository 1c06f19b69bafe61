"""One repair: lets torchvision's CUDA build be imported next to a torch without CUDA.

SmolVLM's and Qwen2-VL's processors import torchvision. The registry's only wheel of the version
that matches torch 2.13 is built for CUDA; beside a CPU torch its C++ library does not load, and
`import torchvision` dies while it registers shape rules for operators that were never declared:
"operator torchvision::nms does not exist". Declaring those two schemas is all the import needs.

`install()` (called by `import sightline`) puts a finder in front of `sys.meta_path`. It costs
nothing until somebody imports torchvision; then it declares what is missing, steps aside for good,
and the import goes on. On a torch with CUDA it does nothing at all. What stays broken on such a
machine is what needs the C++ library: `torchvision.ops.nms` and `torchvision.io`'s decoders. We
use neither: processors are handed PIL images.

Order matters: a process must import sightline before torchvision (transformers imports it late,
inside processor modules). Ray workers do: unpickling a sightline class imports sightline first.
A worker that imports a transformers processor before sightline sees the original error.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

SCHEMAS = {
    "nms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
"""The operators whose shape rules `torchvision._meta_registrations` registers on import."""


class _Finder:
    """Sees `import torchvision` first, declares the schemas, and lets the real finders find it."""

    _library: torch.library.Library | None = None

    @classmethod
    def find_spec(
        cls, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name == "torchvision":
            sys.meta_path.remove(cls)
            cls._declare()
        return None

    @classmethod
    def _declare(cls) -> None:
        import torch

        if torch.version.cuda is not None:
            return
        missing = [name for name in SCHEMAS if not _exists(name)]
        if missing:
            # Kept alive by the class: a collected Library takes its schemas with it.
            cls._library = torch.library.Library("torchvision", "FRAGMENT")
            for name in missing:
                cls._library.define(name + SCHEMAS[name])


def _exists(name: str) -> bool:
    import torch

    return bool(torch._C._dispatch_has_kernel(f"torchvision::{name}")) or hasattr(torch.ops.torchvision, name)


def install() -> None:
    """Put the finder in place, once; nothing if torchvision has been imported already."""
    if "torchvision" not in sys.modules and _Finder not in sys.meta_path:
        sys.meta_path.insert(0, _Finder)
