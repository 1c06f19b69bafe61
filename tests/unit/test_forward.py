"""The shared-prefix forward gives the losses and gradients of two plain forwards, in fp32."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from PIL import Image
from tiny import FAMILIES, fresh_vlm

from sightline.config.lora import LoraConfig
from sightline.errors import ConfigError
from sightline.models.vlm import Vlm
from sightline.records import PreferencePair
from sightline.training import lora, losses
from sightline.training.collate import PairCollator
from sightline.training.forward import PairForward, choose_mode

ANSWERS = [("Yes.", "No, there is no dog."), ("A dog and two red cups.", "A cat."), ("Red.", "Blue.")]
TARGETS = r".*text_model.*\.(q_proj|v_proj|down_proj)"


@pytest.fixture
def pairs(tmp_path) -> list[PreferencePair]:
    """Three pairs on two images; the last one carries a long reference text."""
    for name, color in (("a", "red"), ("b", "blue")):
        image = Image.new("RGB", (96, 96), color)
        image.paste("white", (10, 20, 50, 60))
        image.save(tmp_path / f"{name}.png")
    rows = []
    for i, (chosen, rejected) in enumerate(ANSWERS):
        uri = str(tmp_path / ("b.png" if i == 2 else "a.png"))
        context = "a dog on a couch " * 5 if i == 2 else ""
        rows.append(
            PreferencePair(
                f"p{i}", f"e{i}", uri, uri, "Is there a dog?", context, chosen, rejected, "cm", weight=1.0 + i
            )
        )
    return rows


@pytest.fixture
def vlm() -> Vlm:
    return Vlm.load("world", dtype="float32", device="cpu")


def gradients(vlm: Vlm, model, pairs, mode: str) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    forward = PairForward(model, vlm.adapter, mode, image_token_id=vlm.image_token_id)
    batch = PairCollator(vlm, forward.mode)(
        pairs, {"chosen": [-1.0, -9.0, -2.0], "rejected": [-3.0, -4.0, -2.0]}
    )
    model.zero_grad(set_to_none=True)
    logprob_2N = forward(batch)
    terms = losses.terms(batch.policy(logprob_2N), batch.reference, beta=0.3)
    losses.total(terms, {"preference": 1.0, "sft": 0.1}, batch.weight_N).backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return logprob_2N.detach(), found


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("full", [True, False], ids=["full", "lora"])
def test_shared_equals_plain_in_loss_and_gradients(vlm, pairs, full, attention):
    vlm.model.set_attn_implementation(attention)
    model = vlm.model if full else lora.attach(vlm.model, LoraConfig(targets=TARGETS), seed=0)
    if full:
        lora.freeze(model, None)
    else:  # B starts at zero, which would leave A without a gradient
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    parameter.normal_(std=0.1)
    names = assert_equal_ways(vlm, model, pairs)
    assert any("lora_A" in name or "vision" in name for name in names)


def test_recomputed_activations_give_the_same_gradients(vlm, pairs):
    lora.freeze(vlm.model, None)
    _, kept = gradients(vlm, vlm.model, pairs, "shared")
    vlm.model.train().gradient_checkpointing_enable({"use_reentrant": False})
    _, recomputed = gradients(vlm, vlm.model, pairs, "shared")
    assert kept.keys() == recomputed.keys()
    for name, grad in kept.items():
        torch.testing.assert_close(recomputed[name], grad, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_gives_the_same_either_way(family, pairs):
    vlm = fresh_vlm(family)
    lora.freeze(vlm.model, None)
    assert_equal_ways(vlm, vlm.model, pairs)


def assert_equal_ways(vlm: Vlm, model, pairs) -> set[str]:
    """Compare shared with plain; returns the names of the parameters that got a gradient."""
    shared, shared_grads = gradients(vlm, model, pairs, "shared")
    plain, plain_grads = gradients(vlm, model, pairs, "plain")
    torch.testing.assert_close(shared, plain, atol=2e-5, rtol=1e-5)
    assert shared_grads.keys() == plain_grads.keys()
    for name, grad in shared_grads.items():
        scale = float(plain_grads[name].abs().max())
        torch.testing.assert_close(grad, plain_grads[name], atol=max(1e-5, 1e-4 * scale), rtol=1e-3)
    return set(shared_grads)


def test_log_probabilities_equal_the_models_own_scores(vlm, pairs):
    from sightline.models.prompts import Prompt

    forward = PairForward(vlm.model, vlm.adapter, "shared", image_token_id=vlm.image_token_id)
    with torch.no_grad():
        found = forward(PairCollator(vlm, "shared")(pairs))
    prompts = [Prompt(Image.open(p.image_uri).convert("RGB"), p.question, p.context) for p in pairs]
    for row, side in zip(found, ("chosen", "rejected"), strict=True):
        scores = vlm.score(prompts, [getattr(p, side) for p in pairs], reuse_prefix=False)
        torch.testing.assert_close(row, torch.tensor([s.logprob for s in scores]), atol=1e-4, rtol=1e-5)


def test_an_image_is_encoded_once_and_the_head_sees_answers_only(vlm, pairs):
    forward = PairForward(vlm.model, vlm.adapter, "shared", image_token_id=vlm.image_token_id)
    seen = []
    vision, head = vlm.model.model.vision_model, vlm.model.lm_head
    hooks = [
        vision.register_forward_hook(lambda m, args, out: seen.append(len(out.last_hidden_state))),
        head.register_forward_hook(lambda m, args, out: seen.append(args[0].shape[0])),
    ]
    batch = PairCollator(vlm, "shared")(pairs)
    forward(batch)
    for hook in hooks:
        hook.remove()
    assert seen == [2, int(batch.answer_tokens_S.sum())]


def test_a_family_that_cannot_share_falls_back_with_a_reason(vlm, caplog):
    class Stiff(type(vlm.adapter)):
        supports_shared_prefix = False

    with caplog.at_level("WARNING", logger="sightline"):
        assert choose_mode("shared", Stiff()) == "plain"
    assert "plain forward" in caplog.text
    assert choose_mode("shared", vlm.adapter) == "shared"


def test_wrong_lora_targets_and_freezes_are_refused(vlm):
    with pytest.raises(ConfigError, match="at least one linear layer"):
        lora.attach(vlm.model, LoraConfig(targets="nothing"), seed=0)
    with pytest.raises(ConfigError, match="matches 0 of"):
        lora.freeze(vlm.model, "nothing")
    lora.freeze(vlm.model, r".*vision_model.*")
    assert 0 < lora.trainable_parameters(vlm.model) < sum(p.numel() for p in vlm.model.parameters())


def test_a_text_only_pair_needs_no_image(vlm, pairs):
    texts = [dataclasses.replace(pair, image_uri="") for pair in pairs]
    forward = PairForward(vlm.model, vlm.adapter, "shared", image_token_id=vlm.image_token_id)
    plain = PairForward(vlm.model, vlm.adapter, "plain", image_token_id=vlm.image_token_id)
    with torch.no_grad():
        found = forward(PairCollator(vlm, "shared")(texts))
        torch.testing.assert_close(found, plain(PairCollator(vlm, "plain")(texts)), atol=2e-5, rtol=1e-5)
