"""`mitigations:` as settings, as short text and as a list; what is wrong is named with what is right."""

import math

import pytest
from pydantic import TypeAdapter

from sightline.config.base import Frozen
from sightline.config.interventions import SpinConfig, VtiConfig
from sightline.config.layers import read_layers, write_layers
from sightline.config.loader import parse
from sightline.config.mitigations import (
    METHODS,
    Mitigation,
    Mitigations,
    help_text,
    mitigations_of,
    parse_text,
    to_text,
)
from sightline.errors import ConfigError

ITEM: TypeAdapter[Mitigation] = TypeAdapter(Mitigation)
TEXTS = (
    "greedy",
    "spin:k=0.8,alpha=0.1,layers=0-3+8",
    "vti:text=-0.5,image=0.9,directions=/a/b",
    "icd:alpha=2.0,instruction=You are, well, confused.",
    "dola:layers=high",
    "dola:layers=0+2+4",
    "opera:num_beams=3,mode=released",
)


class Job(Frozen):
    """A job that takes mitigations."""

    mitigations: Mitigations = ()
    """What is done."""


@pytest.mark.parametrize("text", TEXTS)
def test_text_and_settings_are_each_others_inverse(text):
    item = parse_text(text)
    assert to_text(item) == text
    assert ITEM.validate_python(item.model_dump(mode="json")) == item
    assert ITEM.validate_json(item.model_dump_json()) == item


@pytest.mark.parametrize("name", METHODS)
def test_a_bare_type_has_the_defaults(name):
    item = parse_text(name)
    assert item == METHODS[name]()
    assert to_text(item) == name


@pytest.mark.parametrize(
    ("text", "layers"),
    [("5", (5,)), ("0-3", (0, 1, 2, 3)), ("0-1+5+7-8", (0, 1, 5, 7, 8)), ("0+2+4", (0, 2, 4))],
)
def test_layers_as_text(text, layers):
    assert read_layers(text) == layers
    assert write_layers(layers) == text
    assert SpinConfig(layers=list(reversed(layers))).layers == layers


@pytest.mark.parametrize(
    ("text", "needles"),
    [
        ("spinn:k=0.8", ["did you mean `spin`", "vti, steer"]),
        ("spin:kk=0.8", ["unknown setting `kk` of spin", "did you mean `k`"]),
        ("greedy:k=1", ["no settings"]),
        ("spin:k", ["key=value"]),
        ("spin:k=1,k=0.5", ["every key once"]),
        ("spin:k=1.5", ["`k` of spin", "less than or equal to 1"]),
        ("spin:k=nan", ["finite"]),
        ("vti:text=inf", ["`text` of vti", "finite"]),
        ("steer:strength=-inf", ["finite"]),
        ("sample:temperature=0", ["greater than 0"]),
        ("sample:top_p=0", ["greater than 0"]),
        ("beam:num_beams=1", ["greater than or equal to 2"]),
        ("vcd:noise_step=1000", ["less than or equal to 999"]),
        ("spin:layers=-1", ["0-12"]),
        ("spin:layers=3-1", ["ends after it begins"]),
        ("spin:layers=1+1", ["every layer once"]),
        ("spin:layers=0,1", ["0-3+8", "'0,1'"]),
        ("dola:layers=middle", ["low"]),
        ("icd:instruction=so, alpha=1", ["`alpha`"]),
        ("spin:mode=fast", ["paper"]),
    ],
)
def test_what_is_wrong_is_named(text, needles):
    if text == "icd:instruction=so, alpha=1":  # a comma before `name=` begins a setting
        assert parse_text(text).alpha == 1.0
        return
    with pytest.raises(ConfigError) as caught:
        parse_text(text)
    for needle in needles:
        assert needle in str(caught.value)


def test_an_instruction_that_could_not_be_written_as_text_is_refused():
    with pytest.raises(ConfigError, match="name="):
        mitigations_of([{"type": "icd", "instruction": "so, alpha=1"}])


@pytest.mark.parametrize(
    ("items", "needle"),
    [
        (["vcd", "greedy"], "at most one decoder, got vcd and greedy"),
        (["pai:gamma=1.5", "beam"], "at most one decoder"),
        (["spin", {"type": "spin", "k": 0.8}], "spin once, got spin and spin:k=0.8"),
        (["vti:text=0.8", "vti:image=0.9"], "vti once"),
        (["steer:layers=0", "steer:layers=1"], "steer once"),
    ],
)
def test_lists_that_contradict_themselves(items, needle):
    with pytest.raises(ConfigError, match=needle):
        mitigations_of(items)


def test_forms_may_be_mixed():
    items = mitigations_of(["steer:layers=0", {"type": "spin", "layers": [1]}, VtiConfig(), "pai", "beam"])
    assert [item.type for item in items] == ["steer", "spin", "vti", "pai", "beam"]
    assert mitigations_of(items) == items


def test_the_same_list_on_a_jobs_command_line_and_in_its_files(tmp_path):
    expected = mitigations_of(["spin:k=0.8,layers=0-3", "vcd"])
    path = tmp_path / "job.yaml"
    path.write_text("mitigations:\n- {type: spin, k: 0.8, layers: 0-3}\n- vcd\n")
    assert parse(Job, ["--config", str(path)]).mitigations == expected
    line = 'mitigations=["spin:k=0.8,layers=0-3", {type: vcd}]'
    assert parse(Job, [line]).mitigations == expected
    assert Job(mitigations=["spin:k=0.8,layers=0-3", "vcd"]).mitigations == expected


def test_a_job_names_a_wrong_key_with_its_place(tmp_path):
    path = tmp_path / "job.yaml"
    path.write_text("mitigations:\n- greedy\n- {type: spin, kept: 0.8}\n")
    with pytest.raises(ConfigError, match=r"mitigations\.1.*job\.yaml.*unknown setting `kept` of spin"):
        parse(Job, ["--config", str(path)])


def test_infinity_is_no_number_in_yaml_either():
    with pytest.raises(ConfigError, match="finite"):
        parse(Job, ["mitigations=[{type: vti, text: .inf}]"])
    with pytest.raises(ConfigError, match="finite"):
        mitigations_of([{"type": "pai", "alpha": math.nan}])


def test_help_names_every_setting():
    long = help_text()
    for name, method in METHODS.items():
        assert f"{name}: " in long
        for field, info in method.model_fields.items():
            assert info.description, f"{name}.{field}"
            assert field == "type" or f"  {field}=" in long
