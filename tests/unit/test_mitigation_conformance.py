"""What every mitigation must hold on every family, through `Mitigated`: exact, and gone afterwards."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from mitigated import EXAMPLES, INTERVENTIONS, example, make_directions, three_prompts
from tiny import FAMILIES, tiny_vlm

from sightline.mitigations import Mitigated
from sightline.models.vlm import Vlm
from sightline.records import Answer

TOKENS = 6


class Subject:
    """One family: its model, directions, what it says plainly, and what it was made of before."""

    def __init__(self, family: str, folder: Any):
        self.family, self.vlm = family, tiny_vlm(family)
        self.directions = make_directions(self.vlm, folder)
        self.prompts = three_prompts()
        self.plain = Mitigated(self.vlm).generate(self.prompts, max_new_tokens=TOKENS)
        self.weights = {name: tensor.clone() for name, tensor in self.vlm.model.state_dict().items()}
        self.shape = shape_of(self.vlm)

    def mitigated(self, name: str) -> Mitigated:
        return Mitigated(self.vlm, [example(name, self.directions)])

    def check_untouched(self) -> None:
        """Weights, hooks, forwards, configs: as they were, and so are the answers, bit for bit."""
        assert shape_of(self.vlm) == self.shape
        for name, tensor in self.vlm.model.state_dict().items():
            assert torch.equal(tensor, self.weights[name]), name
        assert Mitigated(self.vlm).generate(self.prompts, max_new_tokens=TOKENS) == self.plain


def shape_of(vlm: Vlm) -> list[tuple[Any, ...]]:
    """What could have been left behind in each module: its identity, hooks, own attributes, config."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return [
        (
            name,
            id(module),
            tuple(len(getattr(module, kind)) for kind in hooks),
            tuple(sorted(vars(module))),
            id(getattr(module, "config", None)),
            str(getattr(getattr(module, "config", None), "_attn_implementation", "")),
        )
        for name, module in vlm.model.named_modules()
    ]


@pytest.fixture(scope="module", params=FAMILIES)
def subject(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Subject:
    return Subject(request.param, tmp_path_factory.mktemp(request.param))


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_answer_depends_on_its_prompt_alone_and_the_model_comes_back(subject: Subject, name: str):
    mitigated = subject.mitigated(name)
    together = mitigated.generate(subject.prompts, max_new_tokens=TOKENS, batch_size=6)
    for prompt, answer in zip(subject.prompts, together, strict=True):
        (alone,) = mitigated.generate([prompt], max_new_tokens=TOKENS, batch_size=1)
        assert alone.token_ids == answer.token_ids
        assert alone.logprob == pytest.approx(answer.logprob, abs=1e-4)
    assert acts(together, subject.plain) == (name != "greedy")
    subject.check_untouched()


def acts(answers: list[Answer], plain: list[Answer]) -> bool:
    """Whether any answer is another one, in its words or in what the model thinks of them."""
    return any(
        a.token_ids != b.token_ids or abs(a.logprob - b.logprob) > 1e-4
        for a, b in zip(answers, plain, strict=True)
    )


@pytest.mark.parametrize("name", INTERVENTIONS)
def test_padding_on_either_side_changes_nothing_in_stock_forwards(subject: Subject, name: str):
    vlm, stack = subject.vlm, subject.mitigated(name).stack
    rows = vlm.encode(subject.prompts)
    with torch.inference_mode(), stack.attached(vlm):
        alone = [vlm.model(**vlm.collate([row])).logits[0, -1] for row in rows]
        for side in ("left", "right"):
            logits_BTV = vlm.model(**vlm.collate(rows, side)).logits
            for b, (row, expected_V) in enumerate(zip(rows, alone, strict=True)):
                last = -1 if side == "left" else len(row) - 1
                torch.testing.assert_close(logits_BTV[b, last], expected_V, atol=1e-4, rtol=1e-3)
    subject.check_untouched()


def test_interventions_stack_and_a_decoder_runs_under_them(subject: Subject):
    names = ["vti", "spin", "pai"]
    for decoder in ("vcd", "dola", "opera"):
        items = [example(name, subject.directions) for name in (*names, decoder)]
        mitigated = Mitigated(subject.vlm, items)
        together = mitigated.generate(subject.prompts, max_new_tokens=3, batch_size=6)
        (alone,) = mitigated.generate(subject.prompts[1:2], max_new_tokens=3, batch_size=1)
        assert alone.token_ids == together[1].token_ids
        assert acts(together, Mitigated(subject.vlm, [items[-1]]).generate(subject.prompts, max_new_tokens=3))
    subject.check_untouched()
