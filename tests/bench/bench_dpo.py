"""Preference training against TRL's DPOTrainer: same pairs, model, LoRA, precision, one process.

Prompts (an image, a long `Reference:` and a question) are more than ten times as long as answers,
as they are with real images. TRL is set up for speed: no gradient checkpointing, no truncation,
no logging inside the timed part, timed from its first step to its last. Ours is timed with the
pass over the pairs that computes the reference log-probabilities, which TRL does in every step.
Both train in turn for some rounds, on the same batches in the same order from the same adapter;
losses are compared step by step. Peak memory is that of a child process that trains one way only.
The vocabulary is small (600 words), which favours TRL: on a CPU its head looks at the prompt too.
The last line is one JSON object.

    python tests/bench/bench_dpo.py [steps=4] [epochs=2] [batch=4] [rounds=3] [scale=2]
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from sightline.config.lora import LoraConfig
from sightline.config.training import TrainingConfig
from sightline.distributed.engines import EngineSettings, build
from sightline.distributed.train_loop import pair_loss
from sightline.models.vlm import Vlm
from sightline.records import PreferencePair
from sightline.training import lora
from sightline.training.collate import PairCollator
from sightline.training.forward import PairForward
from sightline.world import dataset

TRAINING = TrainingConfig(lr=1e-3, beta=0.1, sft_weight=0.0, precision="float32")  # TRL has no SFT term
ADAPTERS = LoraConfig(rank=16, alpha=32)


@dataclass(frozen=True)
class Work:
    """What both sides train: pairs in order, and the shape of the run."""

    pairs: list[PreferencePair]
    batch: int
    epochs: int
    scale: int

    @property
    def steps(self) -> int:
        return self.epochs * len(self.pairs) // self.batch


def make_work(folder: Path, *, steps: int, epochs: int, batch: int, scale: int) -> Work:
    """Yes/no questions with eight captions of other scenes as reference."""
    lines = dataset.write(folder, split="mine", scenes=max(24, steps * batch)).read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    captions = list(dict.fromkeys(json.loads(row["meta"])["caption"] for row in rows))
    asked = [row for row in rows if row["kind"] == "yes_no"][: steps * batch]
    pairs = []
    for i, row in enumerate(asked):
        context = " ".join(captions[(i + k) % len(captions)] for k in range(1, 9))
        right, wrong = row["answer"], "No." if row["answer"].startswith("Yes") else "Yes."
        pairs.append(
            PreferencePair(
                row["example_id"], "", row["image_id"], row["image_uri"], row["question"], context, right,
                wrong, "cm",
            )
        )  # fmt: skip
    return Work(pairs, batch, epochs, scale)


def make_vlm(scale: int) -> Vlm:
    """The reference VLM's classes and processor, its decoder and tower `scale` times as wide."""
    vlm = Vlm.load("world", dtype="float32", device="cpu")
    config = vlm.model.config
    for part in (config.text_config, config.vision_config):
        part.hidden_size *= scale
        part.intermediate_size *= scale
        part.num_attention_heads *= scale
    config.text_config.num_key_value_heads *= scale
    torch.manual_seed(0)
    return Vlm(type(vlm.model)(config).eval(), vlm.processor)


def adapted(scale: int) -> tuple[Vlm, Any]:
    vlm = make_vlm(scale)
    return vlm, lora.attach(vlm.model, ADAPTERS, seed=0)


@dataclass(frozen=True)
class Trained:
    """Wall and processor seconds of the timed part (all threads), and each step's loss."""

    wall_s: float
    cpu_s: float
    losses: list[float]


def train_ours(work: Work) -> Trained:
    """Train with the library's parts, the one reference pass included."""
    vlm, model = adapted(work.scale)
    forward = PairForward(model, vlm.adapter, "shared", image_token_id=vlm.image_token_id)
    settings = EngineSettings(work.batch, work.batch, 1, 0.0, TRAINING.max_grad_norm, False, None)
    engine = build(forward.train(), settings)
    started = (time.perf_counter(), time.process_time())
    collate = PairCollator(vlm, "shared")
    chunks = [work.pairs[i : i + work.batch] for i in range(0, len(work.pairs), work.batch)]
    with torch.no_grad():  # before the first step the adapter changes nothing: this is the reference
        references = [forward(collate(chunk)).numpy() for chunk in chunks]
    losses = []
    for chunk, reference in [*zip(chunks, references, strict=True)] * work.epochs:
        batch = collate(chunk, {"chosen": reference[0], "rejected": reference[1]})
        loss, _ = pair_loss(engine(batch), batch, TRAINING)
        engine.backward(loss)
        engine.step(TRAINING.lr)
        losses.append(float(loss.detach()))
    return Trained(time.perf_counter() - started[0], time.process_time() - started[1], losses)


def train_trl(work: Work) -> Trained:
    """The same with TRL, timed from its first step's start to its last step's end."""
    import transformers
    import trl
    from datasets import Dataset
    from peft import LoraConfig as PeftLoraConfig
    from torch.utils.data import SequentialSampler

    losses: list[torch.Tensor] = []
    times: list[tuple[float, float]] = []

    class Trainer(trl.DPOTrainer):
        """TRL's trainer, in the pairs' order, keeping each step's loss."""

        def _get_train_sampler(self, dataset=None):
            return SequentialSampler(dataset or self.train_dataset)

        def compute_loss(self, *args, **kwargs):
            loss = super().compute_loss(*args, **kwargs)
            losses.append(loss.detach())
            return loss

    class Clock(transformers.TrainerCallback):
        def on_train_begin(self, *args, **kwargs):
            times.append((time.perf_counter(), time.process_time()))

        def on_train_end(self, *args, **kwargs):
            times.append((time.perf_counter(), time.process_time()))

    ours, reference_adapter = adapted(work.scale)
    start = {k: v.clone() for k, v in reference_adapter.state_dict().items() if "lora_" in k}
    vlm = make_vlm(work.scale)
    frame = vlm.adapter.frame(vlm.processor, True)
    rows = [
        {
            "images": [Image.open(pair.image_uri).convert("RGB")],
            "prompt": frame.prompt(f"Reference: {pair.context}\n{pair.question}"),
            "chosen": frame.answer(pair.chosen),
            "rejected": frame.answer(pair.rejected),
        }
        for pair in work.pairs
    ]
    with tempfile.TemporaryDirectory() as folder:
        arguments = trl.DPOConfig(
            output_dir=folder,
            beta=TRAINING.beta,
            learning_rate=TRAINING.lr,
            lr_scheduler_type="constant",
            optim="adamw_torch",
            weight_decay=0.0,
            max_grad_norm=TRAINING.max_grad_norm,
            per_device_train_batch_size=work.batch,
            max_steps=work.steps,
            max_length=None,
            gradient_checkpointing=False,
            bf16=False,
            use_cpu=True,
            save_strategy="no",
            logging_strategy="no",
            report_to=[],
            disable_tqdm=True,
        )
        trainer = Trainer(
            model=vlm.model,
            args=arguments,
            train_dataset=Dataset.from_list(rows),
            processing_class=vlm.processor,
            peft_config=PeftLoraConfig(
                r=ADAPTERS.rank, lora_alpha=ADAPTERS.alpha, target_modules=ADAPTERS.targets, bias="none"
            ),
            callbacks=[Clock()],
        )
        missing = trainer.model.load_state_dict(start, strict=False).unexpected_keys
        assert not missing, missing
        trainer.train()
    (wall, cpu), (wall_end, cpu_end) = times
    return Trained(wall_end - wall, cpu_end - cpu, [float(loss) for loss in losses])


def lengths(work: Work) -> tuple[float, float]:
    """Mean tokens of prompts and of answers."""
    vlm = Vlm.load("world", dtype="float32", device="cpu")
    batch = PairCollator(vlm, "shared")(work.pairs[:8])
    answers = batch.answer_tokens_S.float().mean().item()
    prompt = (batch.packed.branch_BT == 0).sum(1).float().mean().item()
    return prompt, answers


def own_peak_mib() -> float:
    """Peak resident memory of this process. (`ru_maxrss` would start at the parent's.)"""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


def peak_mib(side: str, arguments: list[str]) -> float:
    """Peak resident memory of a child process that trains one way."""
    command = [sys.executable, __file__, f"only={side}", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr[-3000:])
    return float(json.loads(done.stdout.splitlines()[-1])["peak_mib"])


def main(argv: list[str]) -> None:
    given = dict(argument.split("=", 1) for argument in argv)
    only = given.pop("only", "")
    defaults = {"steps": 4, "epochs": 2, "batch": 4, "rounds": 3, "scale": 2}
    settings = defaults | {name: int(value) for name, value in given.items()}
    rounds = settings.pop("rounds")
    sides: dict[str, Callable[[Work], Trained]] = {"ours": train_ours, "trl": train_trl}
    with tempfile.TemporaryDirectory() as folder:
        work = make_work(Path(folder), **settings)
        if only:
            sides[only](work)
            sys.stdout.write(json.dumps({"peak_mib": own_peak_mib()}) + "\n")
            return
        prompt, answer = lengths(work)
        results: dict[str, list[Trained]] = {side: [] for side in sides}
        for _ in range(rounds):
            for side, train in sides.items():
                results[side].append(train(work))
        passed = [f"{name}={value}" for name, value in settings.items()]
        peaks = {side: peak_mib(side, passed) for side in sides}
    rounds_run = list(zip(results["ours"], results["trl"], strict=True))
    ratios = [theirs.wall_s / ours.wall_s for ours, theirs in rounds_run]
    work_done = work.epochs * len(work.pairs)
    losses = {side: results[side][0].losses for side in sides}
    report = {
        "bench": "dpo",
        "ratio": round(statistics.median(ratios), 3),
        "ratios": [round(r, 3) for r in ratios],
        "processor_time_ratio": round(statistics.median(t.cpu_s / o.cpu_s for o, t in rounds_run), 3),
        "pairs_per_s": {s: round(work_done / min(r.wall_s for r in t), 2) for s, t in results.items()},
        "loss_parity": max(abs(a - b) for a, b in zip(losses["ours"], losses["trl"], strict=True)),
        "losses": {side: [round(x, 6) for x in values] for side, values in losses.items()},
        "peak_memory_ratio": round(peaks["ours"] / peaks["trl"], 3),
        "peak_mib": {side: round(value) for side, value in peaks.items()},
        "prompt_tokens": round(prompt, 1),
        "answer_tokens": round(answer, 1),
        "pairs": len(work.pairs),
        "epochs": work.epochs,
        "parameters": sum(p.numel() for p in make_vlm(work.scale).model.parameters()),
    }
    sys.stdout.write(json.dumps(report) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
