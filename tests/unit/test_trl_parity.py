"""Our losses equal those of TRL's own DPOTrainer on the same weights and the same batch."""

from __future__ import annotations

import copy

import pytest
import torch
from datasets import Dataset
from PIL import Image

from sightline.models.vlm import Vlm
from sightline.records import PreferencePair
from sightline.training import losses
from sightline.training.collate import PairCollator
from sightline.training.forward import PairForward

trl = pytest.importorskip("trl", reason="the parity test compares with TRL")

ANSWERS = [("Yes.", "No, there is no dog here."), ("A dog and two red cups.", "A cat.")]


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    """A policy, a reference with other weights, and two pairs on two images."""
    folder = tmp_path_factory.mktemp("parity")
    vlm = Vlm.load("world", dtype="float32", device="cpu")
    reference = copy.deepcopy(vlm.model)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    pairs = []
    for i, (chosen, rejected) in enumerate(ANSWERS):
        path = str(folder / f"{i}.png")
        image = Image.new("RGB", (96, 96), ("red", "blue")[i])
        image.paste("white", (10, 20, 50, 60))
        image.save(path)
        pairs.append(PreferencePair(f"p{i}", "e", path, path, "Is there a dog?", "", chosen, rejected, "cm"))
    return vlm, reference, pairs, folder


def trl_loss(setting, **settings) -> float:
    """What TRL's trainer computes. The strings are ours, so that both see the same tokens."""
    vlm, reference, pairs, folder = setting
    frame = vlm.adapter.frame(vlm.processor, True)
    rows = [
        {
            "images": [Image.open(pair.image_uri).convert("RGB")],
            "prompt": frame.prompt(pair.question),
            "chosen": frame.answer(pair.chosen),
            "rejected": frame.answer(pair.rejected),
        }
        for pair in pairs
    ]
    arguments = trl.DPOConfig(
        output_dir=str(folder / "trl"),
        beta=0.3,
        bf16=False,
        use_cpu=True,
        report_to=[],
        max_length=None,
        gradient_checkpointing=False,
        per_device_train_batch_size=len(pairs),
        **settings,
    )
    trainer = trl.DPOTrainer(
        model=copy.deepcopy(vlm.model),
        ref_model=copy.deepcopy(reference),
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        processing_class=copy.deepcopy(vlm.processor),
    )
    batch = trainer.data_collator(rows)
    with torch.no_grad():
        return float(trainer.compute_loss(trainer.model.eval(), batch))


def our_loss(setting, **settings) -> float:
    vlm, reference, pairs, _ = setting
    collator = PairCollator(vlm, "shared")
    with torch.no_grad():
        batch = collator(pairs)
        frozen = PairForward(reference, vlm.adapter, "shared", image_token_id=vlm.image_token_id)(batch)
        batch = collator(pairs, {"chosen": frozen[0].numpy(), "rejected": frozen[1].numpy()})
        policy = PairForward(vlm.model, vlm.adapter, "shared", image_token_id=vlm.image_token_id)(batch)
    named = losses.terms(batch.policy(policy), batch.reference, beta=0.3, **settings)
    return float(losses.total(named, {"preference": 1.0}, batch.weight_N))


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ({"loss_type": "sigmoid"}, {"kind": "sigmoid"}),
        ({"loss_type": "sigmoid_norm"}, {"kind": "sigmoid", "length_normalized": True}),
        ({"loss_type": "ipo"}, {"kind": "ipo", "length_normalized": True}),
        ({"loss_type": "hinge"}, {"kind": "hinge"}),
        ({"loss_type": "robust", "label_smoothing": 0.1}, {"kind": "robust", "label_smoothing": 0.1}),
    ],
    ids=lambda value: value.get("loss_type", ""),
)
def test_parity_with_trl(setting, theirs, ours):
    assert our_loss(setting, **ours) == pytest.approx(trl_loss(setting, **theirs), abs=1e-5)
