"""Derive steering directions on Ray, from pairs of captions and from perturbed images.

    <folder>/text/, visual/          differences of hidden states, a part a shard
    <folder>/text/errors.parquet     the rows that failed, with the reason
    <folder>/directions/             the artefact that `vti:directions=...` and `steer` take
    <folder>/report.json, directions.png

Every shard is kept and found again, so a run that was killed goes on where it stopped. The
differences of all images are in memory together when the axes are computed: for LLaVA-1.5
57 MB an image, so 70 images (what VTI's README takes) are 4 GB.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, assert_never

import safetensors.numpy
import torch

from sightline.config.directions import ChairPairs, DirectionsConfig, PairsConfig, VtiPairs, WorldPairs
from sightline.data.caption_pairs import read_chair, read_vti
from sightline.data.pairs import check_pairs
from sightline.distributed.directions_worker import (
    DELTA,
    DeltaParts,
    DirectionsWorkerConfig,
    TextDeltas,
    VisualDeltas,
    check_shapes,
)
from sightline.distributed.extraction import model_identity
from sightline.distributed.shards import ShardedRun, run_sharded
from sightline.distributed.storage import Storage
from sightline.errors import DataError
from sightline.evaluation.run_folder import plain
from sightline.interventions.derive import Derived, text_direction, visual_direction
from sightline.interventions.directions import Directions
from sightline.interventions.directions_figure import directions_png
from sightline.metrics.objects import plurals
from sightline.models.loading import resolve
from sightline.records import PreferencePair

REPORT, FIGURE, ARTEFACT = "report.json", "directions.png", "directions"


@dataclass(frozen=True, slots=True)
class DerivedDirections:
    """Where the artefact is, what it holds, and what the report says."""

    folder: str
    directions: Directions
    report: dict[str, Any]

    def curves(self) -> list[tuple[str, int, float]]:
        """(series, layer, value) of the report's numbers by layer."""
        return [
            (f"{kind}/{name}", layer, value)
            for kind, facts in self.report["kinds"].items()
            for name in ("explained", "shared", "norm")
            for layer, value in enumerate(facts[name])
        ]


@dataclass(frozen=True, slots=True)
class Derivation:
    """One run of `config`, into `folder`."""

    config: DirectionsConfig
    folder: str
    ray: bool = True
    """False runs everything in this process, in a plain loop."""

    def __call__(self, pairs: Sequence[PreferencePair]) -> DerivedDirections:
        """Derive from `pairs` and their images. Raises DataError where too few of them worked."""
        derived: dict[str, Derived] = {}
        facts: dict[str, Any] = {}
        for kind in self.config.derive.kinds:
            run = self._run(kind, pairs)
            deltas = _deltas(run)
            derive = text_direction if kind == "text" else visual_direction
            derived[kind] = derive(deltas, rank=self.config.derive.rank, mode=self.config.derive.mode)
            facts[kind] = _facts(derived[kind], run)
        return self._keep(derived, facts, pairs)

    def _run(self, kind: str, pairs: Sequence[PreferencePair]) -> ShardedRun:
        settings, asked = self.config.derive, self.config.resources
        is_text = kind == "text"
        rows = [pair.to_row() for pair in pairs]
        if not is_text:
            rows = [{"image_uri": uri} for uri in dict.fromkeys(pair.image_uri for pair in pairs)]
        identity: dict[str, Any] = {"model": model_identity(self.config.model), "mode": settings.mode}
        if not is_text:
            identity |= settings.model_dump(mode="json", include={"trials", "tokens", "seed"})
            identity["perturbation"] = self.config.perturbation.model_dump(mode="json")
        return run_sharded(
            rows,
            TextDeltas if is_text else VisualDeltas,
            DirectionsWorkerConfig(self.config.model, settings, self.config.perturbation),
            f"{self.folder}/{kind}",
            shard_rows=settings.shard_rows,
            batch_size=settings.shard_rows,  # the worker cuts a shard itself
            workers=asked.workers,
            cpus_per_worker=asked.cpus_per_worker,
            gpus_per_worker=asked.gpus_per_worker,
            id_column="pair_id" if is_text else "image_uri",
            group_column="image_uri" if is_text else None,
            identity=identity,
            parts=DeltaParts(),
            ray=self.ray,
            describe=f"{kind} directions",
        )

    def _keep(
        self, derived: dict[str, Derived], facts: dict[str, Any], pairs: Sequence[PreferencePair]
    ) -> DerivedDirections:
        """Write artefact, figure and report; the report last, so that it stands for a finished run."""
        config, storage = self.config, Storage.at(self.folder)
        made_from = {
            "pairs": config.pairs.model_dump(mode="json"),
            "perturbation": config.perturbation.model_dump(mode="json"),
            "derive": config.derive.model_dump(mode="json", exclude=_PORTIONS),
            "counts": {kind: facts[kind]["differences"] for kind in derived},
        }

        def of(kinds: Collection[str]) -> Directions:
            return Directions(
                model_identity(config.model)["identity"],
                text_LD=derived["text"].direction if "text" in kinds else None,
                visual_LPD=derived["visual"].direction if "visual" in kinds else None,
                source=config.model.source,
                revision=resolve(config.model.source, config.model.revision)[1],
                mode=config.derive.mode,
                provenance=made_from,
            )

        directions = of(derived)
        directions.save(f"{self.folder}/{ARTEFACT}")
        for kind in derived if config.save_to else ():
            of([kind]).save(f"{config.save_to}/{kind}")
        report = plain(
            {
                "kinds": facts,
                "pairs": len(pairs),
                "images": len({pair.image_uri for pair in pairs}),
                "model": config.model.model_dump(mode="json") | model_identity(config.model),
                **made_from,
            }
        )
        storage.write_bytes(FIGURE, directions_png(report))
        storage.write_json(REPORT, report)
        return DerivedDirections(f"{storage.uri}/{ARTEFACT}", directions, report)


_PORTIONS = {"batch_size", "shard_rows"}
"""Settings of how the work is portioned, which its results do not depend on."""


def load_pairs(pairs: PairsConfig, *, scratch: str) -> list[PreferencePair]:
    """The pairs that a configuration names, checked; the world is rendered into `scratch`."""
    match pairs:
        case WorldPairs():
            return _world_pairs(pairs, scratch)
        case ChairPairs():
            return read_chair(
                pairs.path, plurals, image_root=pairs.image_root, limit=pairs.limit, seed=pairs.seed
            )
        case VtiPairs():
            return read_vti(pairs.path, image_root=pairs.image_root, limit=pairs.limit, seed=pairs.seed)
        case _:
            assert_never(pairs)


def _world_pairs(pairs: WorldPairs, scratch: str) -> list[PreferencePair]:
    from sightline.config.dataset import WorldDataset
    from sightline.distributed.sources import load_examples
    from sightline.world.caption_pairs import caption_pairs
    from sightline.world.dataset import scenes_of

    dataset = WorldDataset(scenes=pairs.scenes, seed=pairs.seed, kinds=("caption",))
    examples = load_examples(dataset, scratch=scratch)
    scenes = scenes_of("mine", pairs.scenes, pairs.seed)
    found = caption_pairs(examples, scenes, invented=pairs.invented, seed=pairs.seed)
    check_pairs(found, where=f"{scratch}, scenes of the world")
    return found


def plan(config: DirectionsConfig) -> str:
    """What `jobs/directions.py` would do, as text, without writing anything or loading the model."""
    from sightline.models.meta import architecture, build_on_meta, measure

    size = measure(build_on_meta(architecture(config.model.source, revision=config.model.revision)))
    settings, asked = config.derive, config.resources
    if isinstance(config.pairs, WorldPairs):
        data = f"{config.pairs.scenes} scenes of the embedded world"
    else:
        found = load_pairs(config.pairs, scratch="")
        images = len({pair.image_uri for pair in found})
        data = f"{len(found)} pairs of captions of {images} images, from {config.pairs.path}"
    how = config.perturbation.model_dump(exclude={"type"})
    sections = {
        "model": f"{config.model.source}: {size.text_blocks} blocks, width {size.text_width}, "
        f"vision {size.vision_width}",
        "pairs": data,
        "directions": f"{', '.join(settings.kinds)}; mean and {settings.rank} principal axes, "
        f"{settings.mode} mode",
        "images": f"{settings.trials} trials of {config.perturbation.type} "
        f"({', '.join(f'{name} {value:g}' for name, value in how.items())})",
        "workers": f"{asked.workers}, each {asked.cpus_per_worker:g} CPUs, {asked.gpus_per_worker:g} GPUs",
        "output": f"{config.run.folder}/{ARTEFACT}" + (f" and {config.save_to}" if config.save_to else ""),
    }
    return "".join(f"{name:<12} {value}\n" for name, value in sections.items())


def _deltas(run: ShardedRun) -> torch.Tensor:
    """All differences, in the order of the input. Raises DataError where none worked, or shapes differ."""
    parts = [safetensors.numpy.load(run.storage.read_bytes(part)) for part in run.parts]
    arrays = [torch.from_numpy(part[DELTA]) for part in parts if DELTA in part]
    if not arrays:
        first = run.error_rows()[0]
        raise DataError(
            expected="at least one image that the model could take",
            got=f"{run.errors} failures, the first being {first['row_id']}: {first['error']}",
        )
    check_shapes(sorted({tuple(array.shape[1:]) for array in arrays}))
    return torch.cat(arrays)


def _facts(derived: Derived, run: ShardedRun) -> dict[str, Any]:
    return {
        "differences": run.rows,
        "failed": run.errors,
        "shape": list(derived.direction.shape),
        "explained": derived.explained_L.tolist(),
        "shared": derived.shared_L.tolist(),
        "norm": derived.norm_L.tolist(),
        "resumed_shards": run.resumed,
        "shards": run.shards,
        "elapsed_s": round(run.elapsed_s, 1),
    }
