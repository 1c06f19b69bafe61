"""What works where: every mitigation really run on every tiny family, in docs/support.md and the README.

    python tests/unit/support_table.py --write

`test_support.py` fails when either says anything else than what happens. An outcome is
either that it works or what the refusal says: any other error fails the run.
"""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from mitigated import EXAMPLES, INTERVENTIONS, example, make_directions, three_prompts
from steered import stock
from test_spin_cross import captioner, generated, mllama, mllama_inputs
from tiny import FAMILIES, tiny_vlm

from sightline.errors import SightlineError
from sightline.interventions.bake import bake
from sightline.interventions.spin_cross import CrossAttentionSpin
from sightline.mitigations import Mitigated
from sightline.models.vlm import Vlm

PAGE = Path(__file__).parents[2] / "docs" / "support.md"
README = Path(__file__).parents[2] / "README.md"
BACKENDS = ("sdpa", "eager")
WORKS, NO_MATTER = "works", "-"
Place = tuple[str, str]
"""(family, attention back-end)."""
Outcomes = Mapping[Place, tuple[str, ...]]
"""Of one engine: an outcome for each row of the table."""

HEAD = """# What works where

Each mitigation, really run on a tiny random model of every family (`tests/unit/tiny.py`). This page is
written by `python tests/unit/support_table.py --write`, and a test fails when it is not what happens.
Columns with equal outcomes stand together; a number is the reason below.
"""
ENGINES = """
**Engines.** *Sightline* is `Mitigated.generate`, what every command and job uses. *Stock generate* is
transformers' own `model.generate` inside `stack.attached(vlm)`, which takes interventions only: a decoder
is a way to generate itself (`-`). *Baked* is `sightline bake`: a plain checkpoint that stock transformers
and vLLM load; `make test-vllm` shows parity with the hooked model. Hooks inside vLLM are not offered: under
its default compilation they are ignored without an error.

Models that see through cross-attention are no families of ours (their prompts hold no image tokens);
`interventions.spin_cross` serves them as plain transformers models:
"""


def outcome(run: Callable[[], object]) -> str:
    """WORKS, or what the refusal expected instead and what it advises."""
    try:
        run()
    except SightlineError as error:
        return re.sub(r", got .*?\. ", ". ", str(error), count=1)
    return WORKS


def in_sightline(vlm: Vlm, directions: str) -> Iterator[str]:
    """Our engine: every example."""
    prompts = three_prompts()[:1]
    for name in EXAMPLES:
        items = [example(name, directions)]
        yield outcome(lambda items=items: Mitigated(vlm, items).generate(prompts, max_new_tokens=2))


def in_stock_generate(vlm: Vlm, directions: str) -> Iterator[str]:
    """transformers' generate under the stack."""
    prompts = three_prompts()[:2]

    def run(name: str) -> None:
        with Mitigated(vlm, [example(name, directions)]).stack.attached(vlm):
            stock(vlm, prompts, max_new_tokens=2)

    for name in EXAMPLES:
        yield outcome(lambda name=name: run(name)) if name in INTERVENTIONS else NO_MATTER


def baked(vlm: Vlm, directions: str) -> Iterator[str]:
    """A checkpoint with the intervention in its weights, loaded by transformers."""
    prompts = three_prompts()[:1]

    def run(name: str) -> None:
        mitigated = Mitigated(vlm, [example(name, directions)])
        (intervention,) = mitigated.stack.interventions
        with tempfile.TemporaryDirectory() as folder:
            plain = Vlm.load(str(bake(vlm, intervention, folder)))
        hooked = mitigated.generate(prompts, max_new_tokens=2)
        assert [a[0].token_ids for a in plain.generate(prompts, max_new_tokens=2)] == [
            answer.token_ids for answer in hooked
        ]

    for name in EXAMPLES:
        yield outcome(lambda name=name: run(name)) if name in INTERVENTIONS else NO_MATTER


def across(model: Any, inputs: dict[str, torch.Tensor]) -> Iterator[str]:
    """A plain transformers model with cross-attention: SPIN's two modes, and the door to all else."""
    for mode in ("paper", "released"):
        spin = CrossAttentionSpin(0.5, 0.0, mode=mode)
        yield outcome(lambda spin=spin: generated(model, inputs, spin, max_new_tokens=2))
    yield outcome(lambda: Vlm(model, None))


def run_all() -> dict[str, Outcomes]:
    """Engine -> outcomes by place."""
    found: dict[str, dict[Place, tuple[str, ...]]] = {"Sightline": {}, "Stock generate": {}, "Baked": {}}
    with tempfile.TemporaryDirectory() as scratch:
        for family in FAMILIES:
            for attention in BACKENDS:
                vlm = tiny_vlm(family, attention)
                directions = make_directions(vlm, Path(scratch) / family / attention)
                found["Sightline"][family, attention] = tuple(in_sightline(vlm, directions))
                found["Stock generate"][family, attention] = tuple(in_stock_generate(vlm, directions))
                if attention == BACKENDS[0]:
                    found["Baked"][family, ""] = tuple(baked(vlm, directions))
    return found


def run_across() -> dict[str, Outcomes]:
    """The same of models that see through cross-attention."""
    pictures = {"pixel_values": torch.zeros(1, 3, 28, 28)}
    found: dict[Place, tuple[str, ...]] = {}
    for attention in BACKENDS:
        found["mllama", attention] = tuple(across(mllama(attention), mllama_inputs([6])))
        found["ViT + GPT-2", attention] = tuple(across(captioner(attention), pictures))
    found["Swin + GPT-2", "eager"] = tuple(across(captioner("eager", "swin"), pictures))
    return {"Stock generate": found}


# -- the page -----------------------------------------------------------------------------


def page() -> str:
    """The whole of docs/support.md."""
    reasons: dict[str, int] = {}
    own = table(tuple(EXAMPLES), run_all(), reasons)
    other = table(("spin", "spin, released", "all others"), run_across(), reasons)
    notes = [f"{number}. {text}" for text, number in reasons.items()]
    return "\n".join([HEAD, *own, ENGINES, *other, "", "## Why", "", *notes, ""])


def in_readme(text: str) -> str:
    """The README with the page's first table between its two markers."""
    own = re.search(r"^\|.*?(?=\n\n)", text, re.S | re.M)
    assert own is not None
    begin, end = "<!-- support: written by `make support` -->\n", "\n<!-- /support -->"
    return re.sub(
        f"(?<={re.escape(begin)}).*?(?={re.escape(end)})", lambda _: own[0], README.read_text(), flags=re.S
    )


def table(names: Sequence[str], engines: Mapping[str, Outcomes], reasons: dict[str, int]) -> list[str]:
    """Lines of a table; refusals are numbered on in `reasons`."""
    columns = [
        (f"{engine}<br>{places_named(places)}", outcomes)
        for engine, by_place in engines.items()
        for outcomes, places in grouped(by_place).items()
    ]
    lines = ["| | " + " | ".join(heading for heading, _ in columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for name, texts in zip(names, zip(*(outcomes for _, outcomes in columns), strict=True), strict=True):
        cells = [
            text if text in (WORKS, NO_MATTER) else f"refused {reasons.setdefault(text, len(reasons) + 1)}"
            for text in texts
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def grouped(by_place: Outcomes) -> dict[tuple[str, ...], list[Place]]:
    """Places with equal outcomes together, in the order they came."""
    groups: dict[tuple[str, ...], list[Place]] = {}
    for place, outcomes in by_place.items():
        groups.setdefault(outcomes, []).append(place)
    return groups


def places_named(places: list[Place]) -> str:
    """`all families; sdpa, eager`."""
    families = list(dict.fromkeys(family for family, _ in places))
    backends = list(dict.fromkeys(attention for _, attention in places if attention))
    missing = [family for family in FAMILIES if family not in families]
    if not missing:
        named = "all families"
    else:
        named = "all but " + ", ".join(missing) if len(missing) < 3 else ", ".join(families)
    return "; ".join(filter(None, [named, ", ".join(backends)]))


if __name__ == "__main__":
    text = page()
    if "--write" in sys.argv:
        PAGE.write_text(text)
        README.write_text(in_readme(text))
    sys.stdout.write(text)
