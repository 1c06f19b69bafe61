"""What probes learn from: the labelled rows of an activation store, and whether they will do.

`read_inputs` opens, `examine` looks at every site and says what it found, before anything is
trained. Rows without a label are left out; nothing else is.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sightline.activations.store import ActivationStore
from sightline.activations.verify import verify
from sightline.config.probing import SplitSettings
from sightline.errors import DataError, SightlineError, StorageError
from sightline.probes.bank import refusals
from sightline.probes.results import Rows
from sightline.probes.splits import Split, split_rows

DEFAULT_STORE = "extract/activations"
"""Where under `run.root` the default run of jobs/extract.py leaves its store."""


@dataclass(frozen=True, slots=True)
class ProbeInputs:
    """The labelled rows of a store, n of its N. Picklable: a worker reads its own sites."""

    store: ActivationStore
    index_n: npt.NDArray[np.int64]
    rows: Rows
    sites: tuple[str, ...]

    def features(self, site: str) -> npt.NDArray[np.float32]:
        """(n, D) of one site."""
        return self.store.features(site, self.index_n)

    def split(self, settings: SplitSettings) -> Split:
        return split_rows(
            self.rows.labels_N, settings, images=self.rows.images, sources=list(self.rows.sources)
        )

    @property
    def model_name(self) -> str:
        model = self.store.meta.get("model", "unknown")
        return str(model.get("source", "unknown") if isinstance(model, dict) else model)

    def identity(self) -> dict[str, Any]:
        """What a probe depends on beside its settings: the store's content and the rows used."""
        parts = {part.name: part.sha256 for part in self.store.manifest.parts}
        return {"store": parts, "rows": len(self.index_n)}


def read_inputs(activations: str | None, *, root: str, label: str, sites: Sequence[str] = ()) -> ProbeInputs:
    """Open a store and take its labelled rows.

    Raises StorageError where there is no store, and DataError for a missing column or site,
    labels that are neither 0 nor 1, or none at all.
    """
    store = ActivationStore.open(_folder(activations, root))
    index_n, labels_n = _labels(store, label)
    known = {site.name for site in store.sites}
    for name in sites:
        if name not in known:
            raise DataError(expected=f"a site among {', '.join(sorted(known))}", got=repr(name))
    rows = Rows(
        labels_N=labels_n,
        images=_texts(store, "image_id", index_n),
        kinds=_texts(store, "kind", index_n),
        questions=_texts(store, "question", index_n),
        sources=_texts(store, "source", index_n),
    )
    chosen = tuple(sites) or tuple(site.name for site in store.sites)
    return ProbeInputs(store, index_n, rows, chosen)


@dataclass(frozen=True, slots=True)
class Findings:
    """What `--check` prints; `faults` are the lines that would stop the run."""

    lines: tuple[str, ...]
    faults: tuple[str, ...]

    def text(self) -> str:
        end = [f"FAULT        {fault}" for fault in self.faults] or ["ok           nothing stands in the way"]
        return "\n".join([*self.lines, *end]) + "\n"


def examine(inputs: ProbeInputs, split: SplitSettings) -> Findings:
    """Look at all that a run would use: files, ids, labels, split, and every site's features."""
    lines, faults = _examine_store(inputs)
    labels_n = inputs.rows.labels_N
    unlabelled = len(inputs.store) - len(labels_n)
    counts = (
        f"{int(labels_n.sum())} hallucinated, {int((1 - labels_n).sum())} not, {unlabelled} without a label"
    )
    lines.append(f"labels       {counts}")
    try:
        sides = inputs.split(split)
    except DataError as error:
        faults.append(f"split by {split.by}: {error}")
    else:
        lines += [_side(inputs, name, getattr(sides, name)) for name in ("train", "valid", "test")]
    refused: dict[str, str] = {}
    for name in inputs.sites:
        try:
            refused |= refusals({name: inputs.features(name)}, labels_n)
        except SightlineError as error:
            faults.append(f"{name}: {error}")
            break
        lines.append(f"{name:<24} {inputs.store.widths[name]:>5} wide  {refused.get(name, 'usable')}")
    if len(refused) == len(inputs.sites):
        faults.append("no site can be probed")
    return Findings(tuple(lines), tuple(faults))


def _examine_store(inputs: ProbeInputs) -> tuple[list[str], list[str]]:
    store = inputs.store
    report = verify(store.folder.uri)
    lines = [
        f"store        {store.folder.uri}",
        f"model        {inputs.model_name}",
        f"rows         {len(store)} of {store.manifest.expected_rows} expected, "
        f"{store.manifest.quarantined} put aside",
    ]
    return lines, list(report.faults)


def _side(inputs: ProbeInputs, name: str, index: npt.NDArray[np.int64]) -> str:
    if not len(index):
        return f"{name:<12} no rows"
    labels = inputs.rows.labels_N[index]
    images = len({inputs.rows.images[i] for i in index})
    return f"{name:<12} {len(index)} rows of {images} images, {labels.mean():.1%} hallucinated"


def _folder(activations: str | None, root: str) -> str:
    if activations is not None:
        return activations
    folder = os.path.join(root, DEFAULT_STORE)
    if not os.path.isfile(os.path.join(folder, "manifest.json")):
        raise StorageError(
            expected=f"a store of activations at {folder}, as activations= names none",
            got="no such store",
            hint="make it with `python jobs/extract.py`, or name another one: activations=DIR",
        )
    return folder


def _labels(store: ActivationStore, label: str) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Row numbers of the labelled rows, and their labels as 0 and 1."""
    values_N = store.column(label)
    if values_N.dtype == object:
        raise DataError(expected=f"numbers in the column {label}", got=f"texts such as {values_N[0]!r}")
    values_N = values_N.astype(np.float64)
    index_n = np.flatnonzero(~np.isnan(values_N))
    if not len(index_n):
        raise DataError(
            expected=f"labels in the column {label} of {store.folder.uri}",
            got=f"none in {len(store)} rows",
            hint="`python jobs/extract.py` makes labels unless told not to",
        )
    labels_n = values_N[index_n]
    wrong = labels_n[(labels_n != 0) & (labels_n != 1)]
    if len(wrong):
        raise DataError(expected=f"labels 0 and 1 in the column {label}", got=f"{wrong[0]:g}")
    return index_n, labels_n.astype(np.int64)


def _texts(store: ActivationStore, name: str, index_n: npt.NDArray[np.int64]) -> list[str]:
    return [str(value) for value in store.column(name)[index_n]]
