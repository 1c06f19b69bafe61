"""Directions: by hand where the answer is plain, and against VTI's own formula, written out."""

from __future__ import annotations

import pytest
import torch

from sightline.errors import DataError
from sightline.interventions.derive import text_direction, visual_direction


def released_pca(rows_NM: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """VTI's `pca.py` for one matrix: mean (1, M), components (rank, M)."""
    mean = rows_NM.mean(0, keepdim=True)
    u, _, vt = torch.linalg.svd(rows_NM - mean, full_matrices=False)
    rows = u.abs().argmax(0)
    signs = torch.stack([u[row, column].sign() for column, row in enumerate(rows)])
    return mean, (vt * signs[:, None])[:rank]


def released_text(deltas_NLD: torch.Tensor, rank: int) -> torch.Tensor:
    """VTI's `obtain_textual_vti`, with its `[1:]` behind it."""
    count, layers, width = deltas_NLD.shape
    mean, components = released_pca(deltas_NLD.reshape(count, -1), rank)
    return (components.sum(0, keepdim=True) + mean).mean(0).view(layers, width)[1:]


def released_visual(deltas_NLPW: torch.Tensor, rank: int) -> torch.Tensor:
    """VTI's `obtain_visual_vti`: rows by `reshape(n_tokens, -1)`, a PCA a row, and back by `view`."""
    _, layers, tokens, width = deltas_NLPW.shape
    scrambled = torch.stack([delta.reshape(tokens, -1) for delta in deltas_NLPW], dim=1)
    rows = []
    for problem in scrambled:
        mean, components = released_pca(problem, rank)
        rows.append((components.sum(0, keepdim=True) + mean).mean(0))
    return torch.stack(rows).view(layers, tokens, width)[1:]


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3))


def spread(mean: list[float], axis: list[float]) -> torch.Tensor:
    """Three differences of two layers of width 2: mean - axis, mean, mean + 2 axis."""
    m, a = torch.tensor(mean), torch.tensor(axis)
    return torch.stack([m - a, m, m + 2 * a]).view(3, 2, 2)


@pytest.mark.parametrize("turn", [1.0, -1.0])
def test_mean_and_axis_by_hand(turn):
    """Varying along (0.6, 0, 0, 0.8) alone: that unit vector, turned towards the mean, is added to it."""
    axis = [0.6 * turn, 0.0, 0.0, 0.8 * turn]
    found = text_direction(spread([1.0, 2.0, 3.0, 4.0], axis))
    mean = torch.tensor([1.0, 2.0, 3.0, 4.0]) + torch.tensor(axis) / 3
    expected = mean + torch.tensor([0.6, 0.0, 0.0, 0.8])
    torch.testing.assert_close(found.direction, expected.view(2, 2))
    torch.testing.assert_close(found.explained_L, torch.ones(2))
    torch.testing.assert_close(found.norm_L, expected.view(2, 2).norm(dim=1))


def test_an_axis_against_the_mean_is_turned_in_paper_mode_alone():
    """svd_flip looks at u: the lone outlier is positive. Here it lies against the mean."""
    deltas = torch.cat(
        [torch.zeros(3, 1, 4), spread([4.0, 0.0, 0.0, 0.0], [-1.0, 0.0, 0.0, 0.0]).view(3, 1, 4)], 1
    )
    mean = 4.0 - 1 / 3
    assert text_direction(deltas).direction[1, 0].item() == pytest.approx(mean + 1)
    assert text_direction(deltas, mode="released").direction[0, 0].item() == pytest.approx(mean - 1)


def test_where_nothing_varies_there_is_only_the_mean():
    same = noise(1, 3, 4).expand(5, 3, 4)
    found = text_direction(same, rank=2)
    torch.testing.assert_close(found.direction, same[0])
    torch.testing.assert_close(found.shared_L, torch.ones(3))
    torch.testing.assert_close(visual_direction(same[:, :, None]).direction, same[0][:, None])


@pytest.mark.parametrize("rank", [1, 3])
def test_released_mode_is_the_released_formula(rank):
    deltas = noise(6, 4, 5, 3)
    torch.testing.assert_close(
        visual_direction(deltas, rank=rank, mode="released").direction, released_visual(deltas, rank)
    )
    text = deltas[:, :, 0]
    torch.testing.assert_close(
        text_direction(text, rank=rank, mode="released").direction, released_text(text, rank)
    )


def test_visual_rows_are_tokens_in_paper_mode_and_runs_of_entries_in_released():
    """A token's direction is what that token alone would give; the released rows mix tokens."""
    deltas = noise(7, 3, 20, 4)
    whole = visual_direction(deltas).direction
    for token in (0, 7, 19):
        alone = visual_direction(deltas[:, :, token : token + 1]).direction
        torch.testing.assert_close(whole[:, token], alone[:, 0])
        flat = text_direction(deltas[:, :, token]).direction
        torch.testing.assert_close(whole[:, token], flat)
    mixed = visual_direction(torch.cat([deltas[:, :1], deltas], 1), mode="released").direction
    assert (mixed - whole).abs().max() > 0.1
    # The scrambling touches the axes alone: without variation both are the mean.
    same = deltas[:1].expand(4, -1, -1, -1)
    torch.testing.assert_close(visual_direction(same).direction, same[0])


def test_shares_by_layer():
    """One layer all signal, one all noise around nothing; shares are of each layer's own variance."""
    signal = torch.ones(50, 1, 8) + 0.01 * noise(50, 1, 8)
    both = text_direction(torch.cat([signal, noise(51, 1, 8)[1:]], 1), rank=1)
    assert both.shared_L[0] > 0.99
    assert both.shared_L[1] < 0.1
    assert 0 <= both.explained_L.min() <= both.explained_L.max() <= 1
    everything = visual_direction(noise(5, 2, 3, 4), rank=4)
    torch.testing.assert_close(everything.explained_L, torch.ones(2))


@pytest.mark.parametrize("derive", [text_direction, lambda d, **k: visual_direction(d[:, :, None], **k)])
def test_what_cannot_be_derived_is_refused(derive):
    with pytest.raises(DataError, match="2 differences"):
        derive(noise(2, 3, 4), rank=2)
    broken = noise(5, 3, 4)
    broken[1, 2, 0] = float("nan")
    with pytest.raises(DataError, match="NaN"):
        derive(broken)
