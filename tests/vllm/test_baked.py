"""Real vLLM loads a baked checkpoint and says what the hooked transformers model says.

Run by `make test-vllm` in its own environment; nothing here needs Ray or a GPU.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny
from steered import directions
from tiny import fresh_vlm, random_image
from transformers import AutoProcessor

from sightline.interventions.bake import bake
from sightline.interventions.stack import Stack
from sightline.interventions.steering import AddSteering
from sightline.models.prompts import Prompt
from sightline.models.vlm import Vlm

QUESTIONS = ("Is there a dog in the image?", "What color is the bus?", "Describe this image in detail.")
MAX_TOKENS = 24


@pytest.fixture(params=["llava", "smolvlm"])
def vlm(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Vlm:
    # vLLM has no attention kernel for heads of 16.
    monkeypatch.setitem(tiny.TEXT, "head_dim", 32)
    return fresh_vlm(request.param)


def vllm_answers(folder: Path, vlm: Vlm, prompts: list[Prompt], scratch: Path) -> list[dict[str, Any]]:
    """Each prompt's answer by vLLM, in a process of its own."""
    asked = []
    for i, prompt in enumerate(prompts):
        image = scratch / f"{i}.png"
        prompt.image.save(image)  # type: ignore[union-attr]
        text = vlm.adapter.frame(vlm.processor, True).prompt(prompt.text)
        asked.append({"prompt": text, "image": str(image), "max_tokens": MAX_TOKENS})
    questions, answers = scratch / "questions.json", scratch / "answers.json"
    questions.write_text(json.dumps(asked))
    script = Path(__file__).with_name("vllm_answers.py")
    command = [sys.executable, str(script), str(folder), str(questions), str(answers)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, env=dict(os.environ))
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    return json.loads(answers.read_text())


def test_vllm_answers_from_baked_weights_as_the_hooked_model(vlm: Vlm, tmp_path: Path):
    steering = AddSteering(directions(vlm), 0.5)
    folder = bake(vlm, steering, tmp_path / "baked")
    # vLLM prepares images with the processor that AutoProcessor picks, whose pixels differ from
    # PIL's by up to 1e-2: the same one here, so that the models alone are compared.
    hooked = Vlm(vlm.model, AutoProcessor.from_pretrained(folder), identity=vlm.identity)
    prompts = [Prompt(random_image(i), question) for i, question in enumerate(QUESTIONS)]
    plain = [a[0].token_ids for a in hooked.generate(prompts, max_new_tokens=MAX_TOKENS)]
    with Stack([steering]).attached(hooked):
        expected = [a[0] for a in hooked.generate(prompts, max_new_tokens=MAX_TOKENS)]
    assert [a.token_ids for a in expected] != plain
    answers = vllm_answers(folder, vlm, prompts, tmp_path)
    assert [a["prompt_ids"] for a in answers] == [row.ids for row in hooked.encode(prompts)]
    assert [tuple(a["ids"]) for a in answers] == [a.token_ids for a in expected]
    for answer, wanted in zip(answers, expected, strict=True):
        assert answer["logprob"] == pytest.approx(wanted.logprob, abs=1e-3)
