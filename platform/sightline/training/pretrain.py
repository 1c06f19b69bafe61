"""Pre-training of the reference VLM: each half by itself, then all weights by curriculum.

Stage 1, the warm-up, gives each half an objective of its own. The language model learns to
*read*: questions about a true `Reference:` text, no image. Then the vision tower and connector
learn to *name*: each image token's normalised dot products with the language model's (now
frozen) embeddings of all nouns and colours, binary cross-entropy against what that part of the
picture shows, from clear pictures to noisy ones. So the circuit that finds a noun in a text
finds it among image tokens too.
Stage 2 trains everything on packed question branches. Plain torch, one process, matrix
products in bf16; it neither knows Ray nor MLflow (`report` receives the numbers).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from sightline.models.reference import IMAGE_TOKENS
from sightline.training.branches import PackedBatch, collate, count_by_branch
from sightline.training.curriculum import WORDS, Batch, Curriculum, Phase, learning_rate, phase_at
from sightline.world.dataset import SEEDS
from sightline.world.nouns import COLORS, NOUNS

Report = Callable[[str, int, dict[str, float]], None]
"""Called with the stage's name, the step and its numbers."""

VALIDATION = Phase("validation", 1.0, existence=6, attributes=4, captions=1, referenced=0.25)


CLEARING = 0.6
"""Share of the vision warm-up during which the pictures go from clear to as noisy as they are.
Straight into the noise, recall of the nouns was 0.07 after 500 steps; so it is 0.77."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How long and how fast; see `config/pretrain.py` for the meaning of each."""

    reading_steps: int
    warmup_steps: int
    steps: int
    batch: int
    warmup_lr: float
    lr: float
    seed: int
    validate_every: int
    validation_scenes: int


class ReferenceTrainer:
    """Trains `model` in place; calls `keep` whenever it has the lowest validation loss so far."""

    def __init__(
        self, model: Any, tokenizer: Any, settings: Settings, *, report: Report, keep: Callable[[], None]
    ):
        self.model, self.tokenizer, self.settings = model, tokenizer, settings
        self.report, self.keep = report, keep
        self.curriculum = curriculum_for(tokenizer)
        self.best_loss = math.inf

    def read(self) -> None:
        """Stage 1, the language model: answer from references, without any image."""
        decoder = self.model.model.text_model
        parameters = list(decoder.parameters())
        steps, size = self.settings.reading_steps, self.settings.batch
        optimizer, schedule = _optimizer(parameters, self.settings.lr, _cosine(steps))
        for step in range(steps):
            texts = self.curriculum.texts(SEEDS["train"], range(step * size, (step + 1) * size))
            packed = collate(texts, pad_id=self.tokenizer.pad_token_id)
            loss_S, answers = self._answer(packed, decoder, inputs={})
            _step(loss_S.mean(), parameters, optimizer, schedule)
            if step % 50 == 0 or step == steps - 1:
                right = answers.right_S.float().mean().item()
                self.report("reading", step, {"loss": loss_S.mean().item(), "right": right})

    def warm_up(self) -> None:
        """Stage 1, vision tower and connector: name what is seen, by the language model's embeddings."""
        words = _word_embeddings(self.model, self.tokenizer)
        head = _SeenWords().train()
        trained = [self.model.model.vision_model, self.model.model.connector, head]
        parameters = [p for module in trained for p in module.parameters()]
        steps = self.settings.warmup_steps
        optimizer, schedule = _optimizer(parameters, self.settings.warmup_lr, _cosine(steps))
        for step in range(steps):
            clarity = max(0.0, 1 - step / (CLEARING * steps))
            batch = self._batch(step, Phase("warm-up", 1.0, existence=0), clarity)
            with _half():
                seen = self.model.model.get_image_features(_pixels(batch)).pooler_output
            logits_BPW = head(seen.float(), words)
            target_BPW = torch.from_numpy(batch.shown_BPW)
            loss = F.binary_cross_entropy_with_logits(logits_BPW, target_BPW, reduction="none").sum(-1).mean()
            _step(loss, parameters, optimizer, schedule)
            if step % 50 == 0 or step == steps - 1:
                numbers = {"loss": loss.item(), **_found(logits_BPW, target_BPW)}
                self.report("warm-up", step, numbers)

    def train(self) -> None:
        """Stage 2: all weights, by the phases of the curriculum."""
        parameters = list(self.model.parameters())
        steps = self.settings.steps
        optimizer, schedule = _optimizer(
            parameters, self.settings.lr, lambda step: learning_rate(min(step, steps - 1), steps)
        )
        self.model.train()
        for step in range(steps):
            phase = phase_at(step, steps)
            loss_S, _ = self._forward(self._batch(self.settings.warmup_steps + step, phase))
            loss = loss_S.mean()
            _step(loss, parameters, optimizer, schedule)
            if step % 50 == 0:
                self.report(phase.name, step, {"loss": loss.item(), "lr": float(schedule.get_last_lr()[0])})
            if (step + 1) % self.settings.validate_every == 0 or step == steps - 1:
                self._keep_best(step)

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Loss, and accuracy of whole answers (all tokens right, teacher-forced), on the `val` stream."""
        self.model.eval()
        results = []
        for start in range(0, self.settings.validation_scenes, self.settings.batch):
            indices = range(start, min(start + self.settings.batch, self.settings.validation_scenes))
            loss_S, answers = self._forward(self.curriculum.batch(SEEDS["val"], indices, VALIDATION))
            results.append((loss_S, answers.right_S, answers.first_S))
        self.model.train()
        return self._accuracies(*(torch.cat(column) for column in zip(*results, strict=True)))

    def _accuracies(
        self, loss_S: torch.Tensor, right_S: torch.Tensor, first_S: torch.Tensor
    ) -> dict[str, float]:
        numbers = {"val_loss": loss_S.mean().item()}
        groups = {"yes": [" Yes"], "no": [" No"], "color": [f" {c.capitalize()}" for c in COLORS]}
        groups["count"] = [" One", " Two", " Three"]
        for name, words in groups.items():
            ids = torch.tensor(
                [self.tokenizer(word, add_special_tokens=False).input_ids[0] for word in words]
            )
            members = torch.isin(first_S, ids)
            if members.any():
                numbers[f"val_{name}"] = right_S[members].float().mean().item()
        return numbers

    def _keep_best(self, step: int) -> None:
        numbers = self.validate()
        if numbers["val_loss"] < self.best_loss:
            self.best_loss = numbers["val_loss"]
            self.keep()
        self.report("validation", step, numbers)

    def _batch(self, step: int, phase: Phase, clarity: float = 0.0) -> Batch:
        size = self.settings.batch
        return self.curriculum.batch(SEEDS["train"], range(step * size, (step + 1) * size), phase, clarity)

    def _forward(self, batch: Batch) -> tuple[torch.Tensor, _Answers]:
        """The loss of every branch (S,), and how well its answer was guessed."""
        packed = collate(batch.sequences, pad_id=self.tokenizer.pad_token_id)
        return self._answer(packed, self.model.model, inputs={"pixel_values": _pixels(batch)})

    def _answer(
        self, packed: PackedBatch, decoder: nn.Module, inputs: dict[str, torch.Tensor]
    ) -> tuple[torch.Tensor, _Answers]:
        with _half():
            hidden_BTD = decoder(
                input_ids=packed.ids_BT,
                position_ids=packed.position_BT,
                attention_mask=packed.mask(torch.float32),
                use_cache=False,
                **inputs,
            ).last_hidden_state
            logits_AV = self.model.lm_head(hidden_BTD.flatten(0, 1)[packed.source_A])
        loss_A = F.cross_entropy(logits_AV.float(), packed.target_A, reduction="none")
        return branch_mean(loss_A, packed), _Answers.of(logits_AV, packed)


@dataclass(frozen=True, slots=True)
class _Answers:
    """Of every branch: is the whole answer the likeliest one (teacher-forced), and its first token."""

    right_S: torch.Tensor
    first_S: torch.Tensor

    @classmethod
    def of(cls, logits_AV: torch.Tensor, batch: PackedBatch) -> _Answers:
        wrong_A = (logits_AV.argmax(-1) != batch.target_A).float()
        wrong_S = torch.zeros(batch.num_segments).index_add(0, batch.segment_A, wrong_A)
        is_first_A = torch.ones_like(batch.segment_A, dtype=torch.bool)
        is_first_A[1:] = batch.segment_A[1:] != batch.segment_A[:-1]
        return cls(wrong_S == 0, batch.target_A[is_first_A])


class _SeenWords(nn.Module):
    """Log-odds that an image token shows a word: their cosine, scaled and shifted."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(20.0))
        self.bias = nn.Parameter(torch.tensor(-6.0))

    def forward(self, tokens_BPD: torch.Tensor, words_WD: torch.Tensor) -> torch.Tensor:
        cosine_BPW = F.normalize(tokens_BPD, dim=-1) @ F.normalize(words_WD, dim=-1).T
        return self.scale * cosine_BPW + self.bias


def _found(logits_BPW: torch.Tensor, target_BPW: torch.Tensor) -> dict[str, float]:
    """Precision and recall of the nouns in whole pictures, at even odds."""
    guess_BW = logits_BPW[..., : len(NOUNS)].amax(1) > 0
    truth_BW = target_BPW[..., : len(NOUNS)].amax(1) > 0
    hits = (guess_BW & truth_BW).sum().item()
    return {"precision": hits / max(1, guess_BW.sum().item()), "recall": hits / truth_BW.sum().item()}


def curriculum_for(tokenizer: Any) -> Curriculum:
    """The curriculum in this tokenizer's ids, cut at the same places as the chat template cuts."""

    def encode(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False).input_ids

    image = "<fake_token_around_image><global-img>" + "<image>" * IMAGE_TOKENS + "<fake_token_around_image>"
    return Curriculum(
        encode,
        opening=encode("<|im_start|>User:"),
        image=encode(image),
        middle=encode("<end_of_utterance>\nAssistant:"),
        end=encode("<end_of_utterance>"),
    )


def _half() -> torch.autocast:
    """Matrix products in bf16: twice as fast on processors with AMX, weights and sums stay fp32."""
    return torch.autocast("cpu", torch.bfloat16)


def _pixels(batch: Batch) -> torch.Tensor:
    """(B, 1 image, 3, S, S), as SmolVLM takes them."""
    return torch.from_numpy(batch.pixels_B3SS)[:, None]


def branch_mean(loss_A: torch.Tensor, batch: PackedBatch) -> torch.Tensor:
    """Token losses to one loss a branch: sum / sqrt(length), between a mean and a sum.

    A mean would drown a caption's words, a sum the one word of a yes-no answer.
    """
    total_S = loss_A.new_zeros(batch.num_segments).index_add(0, batch.segment_A, loss_A)
    return total_S / count_by_branch(batch).sqrt()


def _word_embeddings(model: Any, tokenizer: Any) -> torch.Tensor:
    """Mean input embedding of each noun's and colour's tokens (W, D), less what all have in common."""
    table = model.get_input_embeddings().weight.detach()
    ids = [tokenizer(f" {word}", add_special_tokens=False).input_ids for word in WORDS]
    words_WD = torch.stack([table[word].mean(0) for word in ids])
    return words_WD - words_WD.mean(0)


def _optimizer(
    parameters: list[nn.Parameter], lr: float, factor: Callable[[int], float]
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """AdamW whose learning rate is `lr * factor(step)`."""
    optimizer = torch.optim.AdamW(parameters, lr=lr, betas=(0.9, 0.98), weight_decay=0.02)
    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def _cosine(steps: int) -> Callable[[int], float]:
    """Linear warm-up (3% of the steps) and cosine decay to 2%."""
    rise = max(1, steps * 3 // 100)

    def factor(step: int) -> float:
        if step < rise:
            return (step + 1) / rise
        return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))

    return factor


def _step(
    loss: torch.Tensor,
    parameters: list[nn.Parameter],
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(parameters, 1.0)
    optimizer.step()
    schedule.step()
