"""Full-size models on the meta device: the right shapes, and no memory."""

from __future__ import annotations

import json
import resource
import subprocess
import sys

import pytest
from tiny import FAMILIES, tiny_vlm
from transformers import AutoConfig

from sightline.errors import ModelError
from sightline.models.known import KNOWN
from sightline.models.meta import architecture, build_on_meta, measure


def test_smolvlm2_has_27_vision_and_24_text_blocks_and_takes_no_memory():
    build_on_meta(tiny_vlm("smolvlm").model.config)  # so that importing the classes is not counted
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    model = build_on_meta(architecture("HuggingFaceTB/SmolVLM2-2.2B-Instruct"))
    size = measure(model)
    grown_mib = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert (size.vision_blocks, size.text_blocks) == (27, 24)
    assert (size.vision_width, size.text_width) == (1152, 2048)
    assert {p.device.type for p in model.parameters()} == {"meta"}
    assert size.weight_bytes() == pytest.approx(4.49e9, rel=0.01)
    assert grown_mib < 50  # the weights would be 4,300


@pytest.mark.parametrize(
    ("source", "billions", "blocks"),
    [
        ("HuggingFaceTB/SmolVLM2-2.2B-Instruct", 2.247, (27, 24)),
        ("llava-hf/llava-1.5-7b-hf", 7.06, (24, 32)),
        ("Qwen/Qwen2.5-VL-7B-Instruct", 8.29, (32, 28)),
    ],
)
def test_known_architectures(source: str, billions: float, blocks: tuple[int, int]):
    size = measure(build_on_meta(architecture(source)))
    assert size.parameters / 1e9 == pytest.approx(billions, abs=0.01)
    assert (size.vision_blocks, size.text_blocks) == blocks


def test_the_counts_of_a_small_model_are_those_of_its_parts():
    for family in FAMILIES:
        model = tiny_vlm(family).model
        size = measure(model)
        on_meta = measure(build_on_meta(model.config))
        assert size == on_meta
        assert size.vision_parameters + size.text_parameters < size.parameters
        assert (size.vision_width, size.text_width, size.key_value_width) == (32, 64, 32)
        assert size.key_value_bytes(rows=2, tokens=10) == 2 * 10 * 3 * 2 * 32 * 2


def test_an_architecture_that_is_nowhere_is_an_error(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(AutoConfig, "from_pretrained", _refuse)
    with pytest.raises(ModelError, match="llava-1.5-7b-hf"):
        architecture("nobody/nothing")


def _refuse(*args: object, **kwargs: object) -> None:
    raise OSError("no network")


def test_known_ids_need_no_network():
    code = (
        "import json, socket\n"
        "def no(*a, **k): raise AssertionError('network')\n"
        "socket.socket.connect = no\n"
        "from sightline.models.known import KNOWN\n"
        "from sightline.models.meta import architecture\n"
        "print(json.dumps([architecture(s).model_type for s in KNOWN]))"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert json.loads(output.splitlines()[-1]) == [KNOWN[source]().model_type for source in KNOWN]
