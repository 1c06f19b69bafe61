"""DoLa: divergences by hand, candidate layers, one layer a sample, and all families."""

from __future__ import annotations

import math

import pytest
import torch
from naive import naive_ids
from tiny import FAMILIES, fresh_vlm, sample_prompts, tiny_vlm

from sightline.decoding.dola import (
    DolaDecoder,
    LayerContrast,
    candidates,
    is_tied,
    jensen_shannon,
    reversed_divergence,
)
from sightline.errors import ModelError
from sightline.models.strategy import Step
from sightline.models.vlm import Vlm

EVEN, LEAN = [math.log(0.5), math.log(0.5)], [math.log(0.9), math.log(0.1)]


# -- by hand ----------------------------------------------------------------------------
def test_the_divergence_by_hand():
    p, q = torch.tensor([[EVEN]]), torch.tensor([LEAN])  # m = (.7, .3)
    expected = 0.5 * (0.5 * math.log(0.5 / 0.7) + 0.5 * math.log(0.5 / 0.3)) + 0.5 * (
        0.9 * math.log(0.9 / 0.7) + 0.1 * math.log(0.1 / 0.3)
    )
    assert jensen_shannon(p, q).item() == pytest.approx(expected, abs=1e-6)
    assert jensen_shannon(q[None], p[0]).item() == pytest.approx(expected, abs=1e-6)
    assert jensen_shannon(p, p[0]).item() == pytest.approx(0.0, abs=1e-7)


def test_distributions_that_share_nothing_are_log_2_apart():
    apart = torch.tensor([[[0.0, -200.0]]]), torch.tensor([[-200.0, 0.0]])
    assert jensen_shannon(*apart).item() == pytest.approx(math.log(2.0), abs=1e-6)


def test_the_released_distance_by_hand():
    p, q = torch.tensor([[EVEN]]), torch.tensor([LEAN])
    to_p = 0.7 * math.log(0.7 / 0.5) + 0.3 * math.log(0.3 / 0.5)
    to_q = 0.7 * math.log(0.7 / 0.9) + 0.3 * math.log(0.3 / 0.1)
    # A mean over the vocabulary of two, where a divergence is a sum.
    assert reversed_divergence(p, q).item() == pytest.approx(0.5 * (to_p + to_q) / 2, abs=1e-6)
    kl_div = torch.nn.functional.kl_div
    m = 0.5 * (p.exp() + q.exp())
    theirs = 0.5 * (kl_div(q[None], m, reduction="none") + kl_div(p, m, reduction="none")).mean(-1)
    torch.testing.assert_close(reversed_divergence(p, q), theirs)


def step(last: list[list[float]], early: list[list[list[float]]]) -> Step:
    """States that are logits already: norm doubles them, the head does nothing."""
    last_RV = torch.tensor(last)
    return Step(last_RV[None], torch.tensor(early), lambda h: 2 * h, lambda h: h, [[]] * len(last))


def test_scores_by_hand():
    # Layer 0 agrees with the last after the norm, layer 1 does not: it is the premature one.
    early = [[[1.0, 0.5, -2.0]], [[0.0, 1.0, 0.0]]]
    scores = LayerContrast((0, 1)).scores(step([[2.0, 1.0, -4.0]], early))[0]
    last, premature = (torch.tensor(z).log_softmax(-1) for z in ([2.0, 1.0, -4.0], [0.0, 2.0, 0.0]))
    torch.testing.assert_close(scores[:2], (last - premature)[:2])
    assert scores[2] == -math.inf  # less than a tenth of the likeliest


def test_released_leaves_out_the_norm():
    scores = LayerContrast((0,), mode="released").scores(step([[2.0, 1.0]], [[[0.0, 1.0]]]))[0]
    last, premature = (torch.tensor(z).log_softmax(-1) for z in ([2.0, 1.0], [0.0, 1.0]))
    torch.testing.assert_close(scores, last - premature)


@pytest.mark.parametrize("mode", ["paper", "released"])
def test_each_sample_has_its_own_layer(mode):
    """The released code averaged over the batch: both rows would have got the same layer."""
    torch.manual_seed(0)
    last, early = torch.randn(6, 9) * 3, torch.randn(4, 6, 9) * 3
    strategy = LayerContrast((0, 1, 2, 3), mode=mode)
    together = strategy.scores(step(last.tolist(), early.tolist()))
    for r in range(6):
        alone = strategy.scores(step(last[r : r + 1].tolist(), early[:, r : r + 1].tolist()))
        torch.testing.assert_close(together[r], alone[0])


def test_the_likeliest_token_always_stays():
    scores = LayerContrast((0,), relative_top=1.0).scores(step([[5.0, 0.0]], [[[9.0, 0.0]]]))
    assert scores.argmax().item() == 0


# -- candidates -------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("half", "num_layers", "paper"),
    [
        ("low", 32, range(0, 16, 2)),  # the released lists, in the paper's count
        ("high", 32, range(16, 32, 2)),
        ("low", 40, range(0, 20, 2)),
        ("high", 60, range(40, 60, 2)),
        ("low", 80, range(0, 20, 2)),
        ("high", 80, range(60, 80, 2)),
        ("high", 30, range(16, 30, 2)),  # 15 is odd
        ("high", 3, [2]),
    ],
)
def test_candidates_are_the_papers_one_lower(half, num_layers: int, paper):
    assert candidates(half, num_layers, tied=False) == tuple(j - 1 for j in paper)


def test_a_tied_embedding_is_no_candidate():
    assert candidates("low", 12, tied=False) == (-1, 1, 3)
    assert candidates("low", 12, tied=True) == (1, 3)
    assert candidates("low", 5, tied=True) == (1,)  # the reference VLM
    with pytest.raises(ModelError, match="tied embeddings"):
        candidates("low", 2, tied=True)


def test_a_list_is_taken_as_it_is():
    assert candidates((2, 0, 2), 4, tied=False) == (2, 0)
    for wrong in ((3,), (0, 4), (-2,), ()):
        with pytest.raises(ModelError, match="before the last"):
            candidates(wrong, 4, tied=False)


def test_a_model_without_such_layers_is_refused_by_the_check():
    vlm = tiny_vlm("smolvlm")
    DolaDecoder().check(vlm)
    with pytest.raises(ModelError, match="from 0 to 1"):
        DolaDecoder(layers=(2,)).check(vlm)


@pytest.mark.parametrize("share", [-0.1, 1.1, math.nan])
def test_a_share_is_a_share(share: float):
    with pytest.raises(ModelError, match="relative_top from 0 to 1"):
        DolaDecoder(relative_top=share).check(tiny_vlm("smolvlm"))


def test_tied_heads_are_seen():
    vlm = fresh_vlm("llava")
    assert not is_tied(vlm)
    vlm.adapter.lm_head(vlm.model).weight = vlm.adapter.embeddings(vlm.model).weight
    assert is_tied(vlm)


# -- all families -----------------------------------------------------------------------
def dola_score(vlm: Vlm, mode: str):
    """The method in a dozen plain lines, for one token of one row."""
    norm, head = vlm.adapter.final_norm(vlm.model), vlm.adapter.lm_head(vlm.model)

    def score(logits: list[torch.Tensor], hidden: list[torch.Tensor]) -> torch.Tensor:
        last, found = logits[0].log_softmax(-1), []
        for state in hidden[:3]:  # the embedding and blocks 0 and 1
            early = head(state if mode == "released" else norm(state)).log_softmax(-1)
            m = 0.5 * (last.exp() + early.exp())
            if mode == "released":
                far = (m * (2 * m.log() - last - early)).mean()
            else:
                far = (last.exp() * (last - m.log()) + early.exp() * (early - m.log())).sum()
            found.append((float(far), early))
        premature = max(found, key=lambda pair: pair[0])[1]
        return torch.where(last < last.max() + math.log(0.1), -torch.inf, last - premature)

    return score


@pytest.mark.parametrize("mode", ["paper", "released"])
@pytest.mark.parametrize("family", FAMILIES)
def test_equal_to_the_plain_loop(family: str, mode):
    vlm, prompts = tiny_vlm(family), sample_prompts()
    decoder = DolaDecoder(layers=(-1, 0, 1), mode=mode)
    with torch.inference_mode():
        expected = [naive_ids(vlm, [p], dola_score(vlm, mode), 4) for p in prompts[:3]]
    got = [a.token_ids for a in decoder.generate(vlm, prompts, max_new_tokens=4)]
    assert got[:3] == expected
    again = decoder.generate(vlm, prompts[::-1], max_new_tokens=4, batch_size=2)[::-1]
    assert [a.token_ids for a in again] == got
    assert got != [a[0].token_ids for a in vlm.generate(prompts, max_new_tokens=4)]
