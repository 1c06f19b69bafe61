"""Log-probabilities of every pair under the reference model: computed once, kept, and checked.

The reference never changes during training, so its forward passes need not be paid in every
epoch, nor its weights held in memory beside the policy's. The cache names what it was made with:
model, processor, chat template, precision and each row's hash. Whatever differs is refused by name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sightline.config.dpo import DpoConfig
from sightline.config.model import ModelConfig
from sightline.data.pairs import row_hash
from sightline.distributed.shards import run_sharded
from sightline.distributed.storage import Storage
from sightline.errors import CacheMismatchError, ImageError
from sightline.models.identity import identity_of_files
from sightline.models.loading import resolve
from sightline.records import PreferencePair

_KEY = "cache.json"


@dataclass(frozen=True, slots=True)
class Reference:
    """Natural log-probabilities (N,), in the order of `kept`; pairs with unreadable images are out."""

    kept: list[PreferencePair]
    chosen_N: np.ndarray
    rejected_N: np.ndarray
    unreadable: int


class ReferenceWorker:
    """Columns of PreferencePair -> `chosen_logprob`, `rejected_logprob`, `row_hash`. Knows no Ray."""

    def __init__(self, config: Mapping[str, Any]):
        from sightline.distributed.policy import load_vlm
        from sightline.training.collate import PairCollator
        from sightline.training.forward import PairForward

        self._config = DpoConfig.model_validate(config)
        on_gpu = self._config.resources.gpus_per_worker > 0 and torch.cuda.is_available()
        self._device = torch.device("cuda" if on_gpu else "cpu")
        self._bf16 = self._config.training.bf16(self._device.type)
        vlm = load_vlm(self._config, device=self._device, dtype="bfloat16" if self._bf16 else "float32")
        self._forward = PairForward(
            vlm.model.eval(), vlm.adapter, self._config.training.forward, image_token_id=vlm.image_token_id
        )
        self._collate = PairCollator(vlm, self._forward.mode)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        names = list(batch)
        rows = [dict(zip(names, values, strict=True)) for values in zip(*batch.values(), strict=True)]
        pairs = [PreferencePair.from_row(row) for row in rows]
        logprobs = np.full((2, len(pairs)), np.nan)
        errors = self._unreadable(pairs)
        good = [i for i, error in enumerate(errors) if not error]
        size = self._config.training.micro_batch
        for start in range(0, len(good), size):
            chunk = good[start : start + size]
            logprobs[:, chunk] = self._logprobs([pairs[i] for i in chunk])
        return {
            "pair_id": batch["pair_id"],
            "row_hash": np.array([row_hash(pair) for pair in pairs], dtype=object),
            "chosen_logprob": logprobs[0],
            "rejected_logprob": logprobs[1],
            "error": np.array(errors, dtype=object),
        }

    def _logprobs(self, pairs: Sequence[PreferencePair]) -> np.ndarray:
        batch = self._collate(pairs).to(self._device)
        autocast = torch.autocast(self._device.type, torch.bfloat16, enabled=self._bf16)
        with torch.inference_mode(), autocast:
            return self._forward(batch).double().cpu().numpy()

    def _unreadable(self, pairs: Sequence[PreferencePair]) -> list[str]:
        """One text a pair: what is wrong with its image, or nothing."""
        errors = []
        for pair in pairs:
            try:
                self._collate.image(pair.image_uri)
                errors.append("")
            except ImageError as error:
                errors.append(str(error))
        return errors


def identity_parts(config: DpoConfig, model: ModelConfig | None = None) -> dict[str, str]:
    """What log-probabilities depend on beside the pair, by name, each as a short hash or a word.

    `model` is another model than the configuration's (the trained one).
    """
    named = model or config.model
    folder, _ = resolve(named.source, named.revision)
    return {
        "model": identity_of_files(folder, named.adapter),
        "processor": _hash_files(folder, "*processor*.json", "*token*.json", "vocab*", "merges*"),
        "template": _hash_files(folder, "chat_template*"),
        "precision": config.training.precision,
        "attention": named.attention,
    }


def reference_logprobs(
    config: DpoConfig,
    pairs: Sequence[PreferencePair],
    folder: str,
    *,
    identity: Mapping[str, str],
    ray: bool = True,
) -> Reference:
    """The cache in `folder`, completed where it is not.

    `identity` says what the values depend on beside the rows (`identity_parts`). `ray=False` does
    the work in a plain loop.
    Raises CacheMismatchError if the folder's cache was made with another one, or of other rows.
    """
    storage = Storage.at(folder)
    hashes = {pair.pair_id: row_hash(pair) for pair in pairs}
    _agree(storage, dict(identity), hashes)
    resources = config.resources
    run = run_sharded(
        [{**pair.to_row(), "row_hash": hashes[pair.pair_id]} for pair in pairs],
        ReferenceWorker,
        config.model_dump(mode="json"),
        folder,
        shard_rows=1024,
        batch_size=256,
        workers=resources.workers,
        cpus_per_worker=resources.cpus_per_worker,
        gpus_per_worker=resources.gpus_per_worker,
        id_column="pair_id",
        identity=dict(identity),
        ray=ray,
        describe="reference log-probabilities",
    )
    table = run.table(["pair_id", "row_hash", "chosen_logprob", "rejected_logprob"])
    found = {row["pair_id"]: row for row in table.to_pylist()}
    wrong = [i for i, row in found.items() if hashes.get(i) != row["row_hash"]]
    if wrong:
        raise _mismatch(folder, [f"row {wrong[0]} ({len(wrong)} rows differ)"])
    kept = [pair for pair in pairs if pair.pair_id in found]
    if not kept:
        raise ImageError(
            expected="at least one pair with a readable image",
            got=f"{len(pairs)} unreadable ones",
            hint=f"see errors.parquet in {folder}",
        )
    return Reference(
        kept=kept,
        chosen_N=np.array([found[pair.pair_id]["chosen_logprob"] for pair in kept]),
        rejected_N=np.array([found[pair.pair_id]["rejected_logprob"] for pair in kept]),
        unreadable=len(pairs) - len(kept),
    )


def _hash_files(folder: Path, *patterns: str) -> str:
    digest = hashlib.sha256()
    for path in sorted({path for pattern in patterns for path in folder.glob(pattern)}):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def _agree(storage: Storage, identity: dict[str, str], hashes: Mapping[str, str]) -> None:
    """Write the key of a fresh cache, or compare with the one that is there."""
    if not storage.exists(_KEY):
        storage.write_json(_KEY, {"identity": identity, "rows": dict(hashes)})
        return
    saved = storage.read_json(_KEY)
    before = saved["identity"]
    changed = [
        f"{name}: {before.get(name)} in the cache, {identity.get(name)} now"
        for name in sorted(before | identity)
        if before.get(name) != identity.get(name)
    ]
    if saved["rows"] != dict(hashes):
        differ = [i for i in saved["rows"] | dict(hashes) if saved["rows"].get(i) != hashes.get(i)]
        changed.append(f"rows: {len(differ)} differ, the first being {differ[:1]}")
    if changed:
        raise _mismatch(storage.uri, changed)


def _mismatch(folder: str, changed: Sequence[str]) -> CacheMismatchError:
    return CacheMismatchError(
        expected=f"the reference log-probabilities in {folder} to be of this model and these pairs",
        got="; ".join(changed),
        hint="choose another run.name, or delete that folder to compute them again",
    )
