"""Reading all sites of a store against HALP's layout, at SmolVLM2-2.2B's widths.

The same values in both: 10,000 rows at 11 sites (1152 and 10 x 2048), float32 that no
half precision can hold, so ours gets no help from it. HALP's: ten files of 1,000 questions,
one gzip dataset a site in one group a question, read as HALP's training scripts read them,
vector by vector through all groups of all files. `halp_warm_s` visits each group once for
all its sites, which is kinder than their eleven scripts, one a site: that is `halp_scripts_s`.
Ours: `ActivationStore.features` of each site, as probes read it.

Both end with eleven float32 matrices [N, D] in memory, compared bit for bit. Each is read
with its files in the page cache (`ratio`), and after the kernel was asked to drop them
(`ratio_cold`; a disk may still remember); sides and rounds alternate, the best of each counts.
`ratio_processor` compares processor time, which other work on the machine changes little;
`ratio_one_site` is the reading of one site, as one probe needs it; `ratio_bfloat16` repeats
`ratio` with values of a model that ran in bf16, which both sides then store in less.
The last line is one JSON object.

    python tests/bench/bench_store.py [rows=10000] [rounds=2] [folder=PATH]
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import h5py
import numpy as np

from sightline.activations.halp import Convention
from sightline.activations.halp_export import export_halp
from sightline.activations.manifest import write_manifest
from sightline.activations.parts import write_part
from sightline.activations.sites import Site, default_sites
from sightline.activations.store import ActivationStore

SITES = default_sites(24)
WIDTHS = {site.name: 1152 if site.layer is None else 2048 for site in SITES}
PART_ROWS = 256
CONVENTION = Convention("blocks", "query_token")
Matrices = dict[str, np.ndarray]


def make(folder: Path, rows: int, *, half: bool) -> ActivationStore:
    """A store of random rows in the parts that an extraction writes."""
    parts, ids = [], [f"question_{row}" for row in range(rows)]
    for start in range(0, rows, PART_ROWS):
        names = ids[start : start + PART_ROWS]
        rng = np.random.default_rng(start)
        features = {}
        for name, width in WIDTHS.items():
            values = rng.standard_normal((len(names), width), np.float32)
            features[name] = (
                (values.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32) if half else values
            )
        columns = {
            "image_id": [f"image_{row // 6}.jpg" for row in range(start, start + len(names))],
            "question": ["Is there a dog in the image?"] * len(names),
            "truth": ["Yes"] * len(names),
            "answer": ["No."] * len(names),
        }
        path = folder / f"part-{start // PART_ROWS:06d}.h5"
        parts.append(write_part(path, ids=names, features=features, columns=columns))
    write_manifest(folder, parts, sites=SITES, expected_ids=ids, meta={"model": "smolvlm_2.2b"})
    return ActivationStore.open(folder)


def read_ours(folder: Path, sites: Sequence[Site]) -> Matrices:
    store = ActivationStore.open(folder)
    return {site.name: store.features(site) for site in sites}


def read_halp(folder: Path, sites: Sequence[Site]) -> Matrices:
    """Every group once, every asked dataset of it; then stacked, as HALP's scripts do."""
    paths = {site.name: CONVENTION.path(site) for site in sites}
    found: dict[str, list[np.ndarray]] = {name: [] for name in paths}
    for path in sorted(folder.glob("*.h5")):
        with h5py.File(path, "r") as file:
            for question in file:
                group = file[question]
                for name, inner in paths.items():
                    found[name].append(group[inner][:])
    return {name: np.array(vectors) for name, vectors in found.items()}


def read_halp_by_site(folder: Path, sites: Sequence[Site]) -> Matrices:
    """One pass a site, which is what running HALP's eleven scripts amounts to."""
    return {name: matrix for site in sites for name, matrix in read_halp(folder, [site]).items()}


def drop_from_cache(folder: Path) -> None:
    """Ask the kernel to forget the files' pages, after they are on the disk."""
    for path in folder.glob("*.h5"):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def timed(function: Callable[..., Matrices], *arguments) -> tuple[Matrices, float, float]:
    """What it returns, the seconds it took, and those of the processor."""
    started, busy = time.perf_counter(), time.process_time()
    found = function(*arguments)
    return found, time.perf_counter() - started, time.process_time() - busy


def equal(ours: Matrices, theirs: Matrices, order: np.ndarray) -> bool:
    """Bit for bit, HALP's rows being sorted by name within a file."""
    return all(
        np.array_equal(ours[name][order].view(np.uint32), theirs[name].view(np.uint32)) for name in ours
    )


def order_of(store: ActivationStore, halp: Path) -> np.ndarray:
    place = {name: row for row, name in enumerate(store.ids.tolist())}
    names = []
    for path in sorted(halp.glob("*.h5")):
        with h5py.File(path, "r") as file:
            names += list(file)
    return np.array([place[name] for name in names])


def compare(folder: Path, options: dict[str, int], *, half: bool) -> dict[str, float | bool]:
    """Seconds of both sides, warm and cold, for all sites and for one."""
    ours, halp = folder / "ours", folder / "halp"
    store = make(ours, options["rows"], half=half)
    export_halp(store, halp, layers=CONVENTION.layers, query=CONVENTION.query)
    order = order_of(store, halp)
    sides = {"ours": (read_ours, ours), "halp": (read_halp, halp)}
    seconds: dict[str, list[float]] = {}
    same = True
    for _ in range(options["rounds"]):
        for state in ("cold", "warm"):
            matrices = {}
            for side, (read, place) in sides.items():
                if state == "cold":
                    drop_from_cache(place)
                matrices[side], taken, busy = timed(read, place, SITES)
                seconds.setdefault(f"{side}_{state}", []).append(taken)
                seconds.setdefault(f"{side}_processor", []).append(busy)
            same = same and equal(matrices["ours"], matrices["halp"], order)
            del matrices
        for side, (read, place) in sides.items():
            seconds.setdefault(f"{side}_one", []).append(timed(read, place, [SITES[-1]])[1])
    best: dict[str, float | bool] = {name: min(values) for name, values in seconds.items()}
    if not half:
        best["halp_scripts"] = timed(read_halp_by_site, halp, SITES)[1]
    sizes = {side: sum(p.stat().st_size for p in place.glob("*.h5")) for side, (_, place) in sides.items()}
    return best | {"equal": same} | {f"{side}_mib": size / 2**20 for side, size in sizes.items()}


def main(argv: Sequence[str]) -> None:
    options: dict[str, int] = {"rows": 10_000, "rounds": 2}
    given = dict(argument.split("=", 1) for argument in argv)
    root = given.pop("folder", None)
    options |= {key: int(value) for key, value in given.items()}
    with tempfile.TemporaryDirectory(dir=root) as folder:
        whole = compare(Path(folder, "float32"), options, half=False)
    with tempfile.TemporaryDirectory(dir=root) as folder:
        half = compare(Path(folder, "bfloat16"), options | {"rounds": 1}, half=True)
    result = {
        "bench": "store",
        "ratio": round(whole["halp_warm"] / whole["ours_warm"], 1),
        "ratio_processor": round(whole["halp_processor"] / whole["ours_processor"], 1),
        "ratio_cold": round(whole["halp_cold"] / whole["ours_cold"], 1),
        "ratio_one_site": round(whole["halp_one"] / whole["ours_one"], 1),
        "ratio_scripts": round(whole["halp_scripts"] / whole["ours_warm"], 1),
        "ratio_bfloat16": round(half["halp_warm"] / half["ours_warm"], 1),
        "equal": bool(whole["equal"] and half["equal"]),
        "sites": len(SITES),
        **{
            f"{name}_s": round(whole[name], 3)
            for name in ("ours_warm", "halp_warm", "ours_cold", "halp_cold")
        },
        **{f"{side}_processor_s": round(whole[f"{side}_processor"], 3) for side in ("ours", "halp")},
        "halp_scripts_s": round(whole["halp_scripts"], 3),
        "ours_bfloat16_s": round(half["ours_warm"], 3),
        **{f"{side}_mib": round(whole[f"{side}_mib"]) for side in ("ours", "halp")},
        **{f"{side}_bfloat16_mib": round(half[f"{side}_mib"]) for side in ("ours", "halp")},
        **options,
    }
    print(json.dumps(result))  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1:])
