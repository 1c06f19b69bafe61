"""A stack is checked before it acts, ordered, counted, alone on its model, and gone afterwards."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from steered import directions, our_hooks
from tiny import fresh_vlm, random_image, sample_prompts, tiny_vlm

from sightline.errors import InterventionError
from sightline.interventions.directions import Directions
from sightline.interventions.stack import Stack
from sightline.interventions.steering import AddSteering, TextVti, VisualVti
from sightline.models.prompts import Prompt
from sightline.models.vlm import Vlm

DOG = "Is there a dog?"


@pytest.fixture
def vlm() -> Vlm:
    return tiny_vlm("llava")


def test_interventions_act_in_their_declared_order(vlm: Vlm):
    given = directions(vlm)
    stack = Stack([TextVti(given), AddSteering(given), VisualVti(given)])
    assert [i.name for i in stack.interventions] == ["visual_vti", "steer", "text_vti"]


def test_a_hook_that_was_never_called_is_an_error(vlm: Vlm):
    given = directions(vlm)
    words = "no call of text_vti at block 0 and 2 more"
    with pytest.raises(InterventionError, match=words), Stack([TextVti(given)]).attached(vlm):
        pass
    assert not our_hooks(vlm)
    # The vision tower is asked only where an image is shown.
    with Stack([VisualVti(given)]).attached(vlm):
        vlm.generate([Prompt(None, DOG)], max_new_tokens=1)


def test_an_error_inside_is_not_hidden_and_all_is_undone(vlm: Vlm):
    def fails() -> None:
        with Stack([TextVti(directions(vlm))]).attached(vlm):
            assert our_hooks(vlm)
            raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        fails()
    assert not our_hooks(vlm)


def test_a_second_stack_on_the_model_and_a_kind_given_twice_are_refused(vlm: Vlm):
    stack = Stack([TextVti(directions(vlm))])
    refused: list[str] = []

    def elsewhere() -> None:
        try:
            with stack.attached(vlm):
                pass
        except InterventionError as error:
            refused.append(str(error))

    with stack.attached(vlm):
        with pytest.raises(InterventionError, match="one Stack"), stack.attached(vlm):
            pass
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        vlm.generate([Prompt(None, DOG)], max_new_tokens=1)
    assert "one Stack" in refused[0]
    with pytest.raises(InterventionError, match="text_vti 2 times"):
        Stack([TextVti(directions(vlm)), TextVti(directions(vlm), 0.1)])


def test_an_empty_stack_does_nothing(vlm: Vlm):
    with Stack([]).attached(vlm):
        assert not our_hooks(vlm)


def _compiled(vlm: Vlm, how: str) -> Vlm:
    if how == "in place":
        vlm.model.compile()
    elif how == "a block":
        vlm.adapter.text_blocks(vlm.model)[1].compile()
    elif how == "wrapped":
        tower: Any = vlm.model.model
        vlm.model.model = torch.compile(tower)
    else:
        vlm.model.forward = torch.compile(vlm.model.forward)
    return vlm


@pytest.mark.parametrize("how", ["in place", "a block", "wrapped", "forward"])
def test_compiled_models_are_refused(how: str):
    vlm = fresh_vlm("llava")
    stack = Stack([TextVti(directions(vlm))])
    with pytest.raises(InterventionError, match="compiled"), stack.attached(_compiled(vlm, how)):
        pass


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda d: AddSteering(d, float("nan")), "finite strength"),
        (lambda d: TextVti(d, float("inf")), "finite strength"),
        (lambda d: AddSteering(d, layers=[0, 3]), "layers from 0 to 2"),
        (lambda d: AddSteering(d, layers=[]), "none"),
        (lambda d: VisualVti(d, layers=[-1]), "layers from 0 to 1"),
        (lambda d: TextVti(d, layers=[1, 1]), "each once"),
        (lambda d: TextVti(Directions("other", text_LD=d.text_LD)), "Another model"),
    ],
)
def test_bad_settings_are_refused_before_anything_is_attached(vlm: Vlm, make: Any, words: str):
    with pytest.raises(InterventionError, match=words), Stack([make(directions(vlm))]).attached(vlm):
        pass
    assert not our_hooks(vlm)


def test_one_stack_may_be_on_two_models_at_once(vlm: Vlm):
    other = fresh_vlm("llava")
    given = directions(vlm)
    assert other.identity == vlm.identity
    stack, prompts = Stack([TextVti(given, 8.0)]), [*sample_prompts(), Prompt(random_image(5), DOG)]
    with stack.attached(vlm), stack.attached(other):
        assert vlm.generate_text(prompts, max_new_tokens=4) == other.generate_text(prompts, max_new_tokens=4)
