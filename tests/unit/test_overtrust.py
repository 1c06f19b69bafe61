"""OPERA's formulas and its rule of going back, on numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from sightline.decoding.frontier import GONE
from sightline.decoding.overtrust import EARLY, extended, most_frequent, over_trust, summary_place
from sightline.decoding.retrospection import Candidates, OverTrust, Rollback, Search, Selected
from sightline.errors import ModelError

# Attention of an answer of three tokens to itself; the last row is a candidate's.
ROWS = ([0.10], [0.40, 0.02], [0.20, 0.06, 0.01])
COLUMNS = (0.10 * 0.40 * 0.20 * 50**3, 0.02 * 0.06 * 50**2, 0.01 * 50)  # 1000, 3, 0.5


def columns_of(rows: tuple[list[float], ...], scale: float = 50.0) -> np.ndarray:
    """Log column products (1, 1, M), built row by row as the search does."""
    columns_KN = np.empty((1, 0))
    for row in rows:
        log_KCM = extended(columns_KN, np.array([[row]]), scale)
        columns_KN = log_KCM[:, 0]
    return log_KCM


# -- the penalty ------------------------------------------------------------------------
def test_a_columns_score_is_the_product_down_from_its_diagonal():
    np.testing.assert_allclose(np.exp(columns_of(ROWS)[0, 0]), COLUMNS, rtol=1e-12)


def test_the_penalty_is_the_largest_column_and_names_it():
    penalty_KC, place_KC = over_trust(columns_of(ROWS))
    assert penalty_KC.item() == pytest.approx(1e-7 * 1000.0)
    assert place_KC.item() == 0
    penalty_KC, place_KC = over_trust(columns_of(([0.01], [0.01, 0.4], [0.01, 0.4, 0.01])))
    assert penalty_KC.item() == pytest.approx(1e-7 * (0.4 * 50) ** 2)
    assert place_KC.item() == 1


def test_attention_of_nothing_is_a_product_of_nothing():
    penalty_KC, place_KC = over_trust(columns_of(([0.0], [0.0, 0.0])))
    assert penalty_KC.item() == 0.0
    assert place_KC.item() == 0


def test_the_released_code_rounds_the_score_to_half_precision():
    log_KCM = np.log(np.array([[[0.2, 0.25], [6.0e7, 7e12]]]))
    exact, places = over_trust(log_KCM)
    np.testing.assert_allclose(exact[0], [2.5e-8, 7e5])
    assert places.tolist() == [[1, 1]]
    rounded, places = over_trust(log_KCM, released=True)
    # 2.5e-8 is nearer to 0 than to float16's smallest number; 7e5 is beyond its largest.
    assert rounded.tolist() == [[0.0, 65504.0]]
    assert places.tolist() == [[0, 1]]


def test_a_long_answer_that_stares_at_one_token_does_not_overflow():
    penalty_KC, _ = over_trust(columns_of(tuple([0.9] + [0.0] * n for n in range(600))))
    assert np.isfinite(penalty_KC).all()
    assert penalty_KC.item() > 1e100


def test_the_most_frequent_value_and_the_smallest_of_equals():
    assert most_frequent(np.array([[3, 1, 3, 2], [2, 1, 2, 1], [5, 4, 3, 2]])).tolist() == [3, 1, 2]


def test_a_summary_is_where_every_live_beam_points_often_enough():
    place = EARLY + 2
    history = np.array([[0, place, place, place], [place, place, 1, place], [0, 0, 0, 0]])
    live = np.array([True, True, False])
    assert summary_place(history, live, threshold=2) == place
    assert summary_place(history, live, threshold=3) is None
    assert summary_place(history, np.array([True, True, True]), threshold=2) is None
    assert summary_place(np.full((1, 9), EARLY - 1), live[:1], threshold=2) is None
    assert summary_place(np.full((1, 9), EARLY), live[:1], threshold=2) == EARLY


# -- the rollback -----------------------------------------------------------------------
SUMMARY = 11


def offered(search: Search, logits: tuple[float, ...] = (3.0, 2.0, 1.0)) -> Candidates:
    """Tokens 10 n, 10 n + 1, ... at position n; from SUMMARY on, everything looks at SUMMARY alone."""
    n, beams = search.position, search.trust.num_beams
    row = np.zeros(n + 1)
    row[SUMMARY if n >= SUMMARY else n] = 0.04
    count = len(logits)
    return Candidates(
        np.tile(10 * n + np.arange(count), (beams, 1)),
        np.tile(logits, (beams, 1)),
        np.tile(np.log(np.exp(logits) / np.exp(logits).sum()), (beams, 1)),
        np.tile(row, (beams, count, 1)),
        np.full((beams, count), 0.5),
    )


def run(search: Search, until: int = 1000) -> list[int]:
    """The positions gone back to, in order, until the search is closed."""
    back = []
    for _ in range(until):
        outcome = search.consider(offered(search))
        if isinstance(outcome, Rollback):
            assert search.position == outcome.position
            back.append(outcome.position)
        if search.closed:
            return back
    raise AssertionError("the search does not end")


def search_of(**settings: object) -> Search:
    trust = OverTrust(**({"num_beams": 2, "candidates": 3, "threshold": 3} | settings))  # type: ignore[arg-type]
    return Search(trust, stop_ids=[9999], max_new_tokens=20)


def test_beams_go_back_to_the_token_after_the_summary_and_say_something_else():
    search = search_of()
    while not isinstance(outcome := search.consider(offered(search)), Rollback):
        assert isinstance(outcome, Selected)
    # Tokens 11, 12, 13, 14 all point at 11: at the fourth, more often than three times.
    assert outcome.position == SUMMARY + 1
    assert search.position == SUMMARY + 1 == len(search.past)
    chosen_before = search.forbidden[SUMMARY + 1]
    # Equal beams: the likeliest token of each was chosen.
    assert {token for _, token in chosen_before} == {10 * (SUMMARY + 1)}
    search.consider(offered(search))
    assert {token for _, token in search.chosen[SUMMARY + 1]} == {10 * (SUMMARY + 1) + 1}


def test_a_position_is_gone_back_to_until_its_candidates_are_spent_then_the_one_before():
    # Of two beams' three candidates each time two are spent, so the third time none would be left.
    # From 11 on the beams are new and 12 is free again, but it has been gone back to twice already.
    assert run(search_of()) == [12, 12, 11, 12, 11]


def test_forbidden_tokens_do_not_come_back_and_are_free_again_after_an_earlier_rollback():
    search = search_of()
    seen: list[int] = []
    while len(seen) < 3:
        outcome = search.consider(offered(search))
        if isinstance(outcome, Rollback):
            seen.append(outcome.position)
        elif search.position > SUMMARY + 1:
            assert not search.chosen[SUMMARY + 1] & search.forbidden.get(SUMMARY + 1, frozenset())
    assert seen[-1] == SUMMARY
    assert set(search.forbidden) == {SUMMARY}


def test_without_a_summary_nothing_goes_back():
    search = search_of(threshold=19)
    assert run(search) == []
    assert search.position == 20


def test_a_beam_whose_candidates_are_all_forbidden_is_out_of_the_running():
    search = search_of()
    search.consider(offered(search))
    search.forbidden[1] = frozenset({(0, 10), (0, 11), (0, 12)})
    search.consider(offered(search))
    frontier = search.now.frontier
    assert frontier.live_K.all()
    assert (frontier.tokens_KN[:, 0] == 1).all()
    search.forbidden[2] = frozenset((beam, token) for beam in (0, 1) for token in (20, 21, 22)) - {(1, 22)}
    search.consider(offered(search))
    assert search.now.frontier.live_K.tolist() == [True, False]
    assert search.now.frontier.scores_K[1] < GONE / 2


def test_the_penalty_lowers_the_candidate_that_leans_on_one_token():
    def chosen(penalty: float) -> int:
        search = search_of(penalty=penalty, scale=1.0e7)
        found = offered(search, (2.0, 1.9, -9.0))
        found.weights_KCM[:] = np.array([0.9, 0.1, 0.1])[:, None]
        search.consider(found)
        return int(search.now.frontier.tokens_KN[0, 0])

    # Penalties are 1e-7 * 1e7 * w = 0.9 and 0.1: 2.0 - 0.9 < 1.9 - 0.1.
    assert (chosen(0.0), chosen(1.0)) == (0, 1)


def test_early_tokens_are_judged_by_the_image_in_released_mode_only():
    def chosen(mode: str) -> int:
        search = search_of(mode=mode)
        found = offered(search, (2.0, 1.9, -9.0))
        found.image_KC[:] = [0.1, 0.9, 0.1]
        search.consider(found)
        return int(search.now.frontier.tokens_KN[0, 0])

    assert (chosen("paper"), chosen("released")) == (0, 1)


def test_scores_are_normalised_over_the_candidates_and_the_answers_logprob_is_the_models_own():
    search = search_of()
    found = offered(search, (3.0, 2.0, 1.0))
    found.logprobs_KC[:] = [-0.5, -1.5, -2.5]
    search.consider(found)
    expected = np.array([3.0, 2.0]) - np.log(np.exp([3.0, 2.0, 1.0]).sum())
    np.testing.assert_allclose(search.now.frontier.scores_K, expected, atol=1e-6)
    np.testing.assert_allclose(search.now.frontier.logprobs_K, [-0.5, -1.5])


def test_released_mode_bars_what_was_chosen_from_the_candidates_and_does_not_penalise_then():
    search = search_of(mode="released")
    while not isinstance(search.consider(offered(search)), Rollback):
        assert not search.barred
    assert search.barred == search.forbidden[SUMMARY + 1]
    assert not search_of().barred


@pytest.mark.parametrize(
    "wrong",
    [{"num_beams": 1}, {"candidates": 1}, {"threshold": 0}, {"scale": 0.0}, {"penalty": float("nan")}],
)
def test_impossible_settings_are_refused(wrong: dict):
    with pytest.raises(ModelError, match="expected"):
        OverTrust(**wrong)
