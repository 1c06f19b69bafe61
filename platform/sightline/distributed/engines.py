"""Two ways to take an optimiser step over many workers: plain torch, or DeepSpeed.

Both take the same module and the same losses (mean over a micro-batch) and make the mean over
the global batch, so a run gives the same numbers whichever is chosen. They know nothing about
preferences, Ray or files' places; a step's learning rate is handed to them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import nn

_WEIGHTS, _OPTIMIZER, _TAG = "trainable.safetensors", "optimizer.pt", "state"


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """What both engines need to know."""

    global_batch: int
    micro_batch: int
    accumulation: int
    weight_decay: float
    max_grad_norm: float
    autocast_bf16: bool
    """Compute in bfloat16 where the weights are wider (plain torch only)."""
    deepspeed: Mapping[str, Any] | None
    """DeepSpeed's JSON without batch sizes and optimiser; None = plain torch."""
    from_universal: bool = False
    """`load` will be given a universal checkpoint: one that another number of workers wrote."""

    @property
    def zero_stage(self) -> int:
        """0 without DeepSpeed."""
        return int((self.deepspeed or {}).get("zero_optimization", {}).get("stage", 0))


class Engine(Protocol):
    """Forward, backward, step; save and load its own state."""

    def __call__(self, batch: Any) -> Any:
        """The module's output for a batch."""

    def backward(self, loss: torch.Tensor) -> None:
        """Add the gradients of one micro-batch; `loss` is its mean."""

    def step(self, lr: float) -> float:
        """Average over workers, clip, update, forget gradients. Returns the norm before clipping."""

    def save(self, folder: Path) -> None:
        """Write this rank's part of the state; every rank must call it."""

    def load(self, folder: Path) -> None:
        """Read back what `save` wrote; every rank must call it."""

    def weights(self) -> dict[str, torch.Tensor] | None:
        """All parameters in full on the CPU, on rank 0 (elsewhere None); every rank must call it."""


def build(module: nn.Module, settings: EngineSettings) -> Engine:
    """The engine that the settings ask for."""
    if settings.deepspeed is None:
        return TorchEngine(module, settings)
    return DeepSpeedEngine(module, settings)


def _adamw(module: nn.Module, settings: EngineSettings) -> torch.optim.AdamW:
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return torch.optim.AdamW(parameters, lr=0.0, weight_decay=settings.weight_decay)


class TorchEngine:
    """Data parallel by averaging gradients once a step.

    One all-reduce of everything instead of DistributedDataParallel: parameters that a batch does
    not touch are no special case, and accumulation needs no `no_sync`. What is lost is the overlap
    with the backward pass; who needs that has enough GPUs to want ZeRO.
    """

    def __init__(self, module: nn.Module, settings: EngineSettings):
        self.module = module
        self._settings = settings
        self._optimizer = _adamw(module, settings)
        self._parameters = [p for group in self._optimizer.param_groups for p in group["params"]]
        self._device = self._parameters[0].device.type

    def __call__(self, batch: Any) -> Any:
        bf16 = torch.autocast(self._device, torch.bfloat16)
        with bf16 if self._settings.autocast_bf16 else nullcontext():
            return self.module(batch)

    def backward(self, loss: torch.Tensor) -> None:
        (loss / self._settings.accumulation).backward()

    def step(self, lr: float) -> float:
        world = dist.get_world_size() if dist.is_initialized() else 1
        if world > 1:
            for parameter in self._parameters:
                if parameter.grad is None:  # every rank must bring the same list of tensors
                    parameter.grad = torch.zeros_like(parameter)
            grads = [parameter.grad for parameter in self._parameters]
            flat = torch.cat([grad.float().flatten() for grad in grads]) / world
            dist.all_reduce(flat)
            for grad, part in zip(grads, flat.split([grad.numel() for grad in grads]), strict=True):
                grad.copy_(part.view_as(grad))
        norm = nn.utils.clip_grad_norm_(self._parameters, self._settings.max_grad_norm)
        _set_rate(self._optimizer, lr)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return float(norm)

    def save(self, folder: Path) -> None:
        if _rank() == 0:
            save_file({name: p.detach().contiguous() for name, p in self._named()}, folder / _WEIGHTS)
            torch.save(self._optimizer.state_dict(), folder / _OPTIMIZER)

    def load(self, folder: Path) -> None:
        saved = load_file(folder / _WEIGHTS)
        with torch.no_grad():
            for name, parameter in self._named():
                parameter.copy_(saved[name])
        state = torch.load(folder / _OPTIMIZER, map_location="cpu", weights_only=True)
        self._optimizer.load_state_dict(state)

    def weights(self) -> dict[str, torch.Tensor] | None:
        return _gather(self.module, sharded=False)

    def _named(self) -> list[tuple[str, nn.Parameter]]:
        return [(name, p) for name, p in self.module.named_parameters() if p.requires_grad]


class DeepSpeedEngine:
    """ZeRO 0 to 3, with or without offload, as DeepSpeed's JSON says."""

    def __init__(self, module: nn.Module, settings: EngineSettings):
        deepspeed = import_deepspeed()
        config = {
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,
            **(settings.deepspeed or {}),
            "train_batch_size": settings.global_batch,
            "train_micro_batch_size_per_gpu": settings.micro_batch,
            "gradient_accumulation_steps": settings.accumulation,
            "gradient_clipping": settings.max_grad_norm,
            "steps_per_print": 10**9,
        }
        if settings.from_universal:
            config["checkpoint"] = {"load_universal": True}
        self._settings = settings
        self._engine, self._optimizer, *_ = deepspeed.initialize(
            model=module,
            optimizer=self._adamw(deepspeed, module, config),
            config=config,
            dist_init_required=False,
        )
        self.module = self._engine.module

    def __call__(self, batch: Any) -> Any:
        return self._engine(batch)

    def backward(self, loss: torch.Tensor) -> None:
        self._engine.backward(loss)
        if not self._engine.is_gradient_accumulation_boundary():
            self._engine.step()

    def step(self, lr: float) -> float:
        _set_rate(self._optimizer, lr)
        self._engine.step()
        norm = self._engine.get_global_grad_norm()
        return float("nan") if norm is None else float(norm)

    def save(self, folder: Path) -> None:
        self._engine.save_checkpoint(str(folder), tag=_TAG, exclude_frozen_parameters=True)

    def load(self, folder: Path) -> None:
        tag = f"{_TAG}_universal" if self._settings.from_universal else _TAG
        self._engine.load_checkpoint(str(folder), tag=tag, load_module_strict=False)

    def weights(self) -> dict[str, torch.Tensor] | None:
        return _gather(self.module, sharded=self._settings.zero_stage == 3)

    def _adamw(self, deepspeed: Any, module: nn.Module, config: Mapping[str, Any]) -> torch.optim.Optimizer:
        """torch's AdamW; for states offloaded from a GPU DeepSpeed's own, made for that."""
        offload = config.get("zero_optimization", {}).get("offload_optimizer", {}).get("device", "none")
        if offload == "none" or not torch.cuda.is_available():
            return _adamw(module, self._settings)
        parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
        return deepspeed.ops.adam.DeepSpeedCPUAdam(
            parameters, lr=0.0, weight_decay=self._settings.weight_decay, adamw_mode=True
        )


def import_deepspeed() -> Any:
    """DeepSpeed, set up for the device this process has.

    On a CPU it is told so (it would look for CUDA), and its shared-memory kernel is switched off:
    DeepSpeed compiles it at the first start, for 40 seconds, if it finds a compiler; gloo does.
    """
    on_cpu = not torch.cuda.is_available()
    if on_cpu:
        os.environ["DS_ACCELERATOR"] = "cpu"
    import deepspeed

    if on_cpu:
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


def _gather(module: nn.Module, *, sharded: bool) -> dict[str, torch.Tensor] | None:
    """What a state_dict holds, in full; under ZeRO 3 one after the other, so that memory stays flat."""
    keep = _rank() == 0
    kept = set(module.state_dict())
    full: dict[str, torch.Tensor] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        if sharded:
            with import_deepspeed().zero.GatheredParameters([parameter]):
                if keep:
                    full[name] = parameter.detach().cpu().clone()
        elif keep:
            full[name] = parameter.detach().cpu()
    if keep:
        full |= {name: buffer.detach().cpu() for name, buffer in module.named_buffers() if name in kept}
    return full if keep else None


def _set_rate(optimizer: Any, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr


def _rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0
