"""The benchmark's settings: greedy is always there, one seed for all, contradictions refused."""

from __future__ import annotations

import pytest

from sightline.config.benchmark import BenchmarkConfig
from sightline.config.loader import load, parse
from sightline.errors import ConfigError

ROWS = "rows=[{name: spin, mitigations: ['spin:k=0.8']}, {name: vcd, mitigations: [{type: vcd}]}]"


def test_greedy_is_always_the_first_row():
    assert [row.name for row in parse(BenchmarkConfig, []).methods()] == ["greedy"]
    assert [row.name for row in parse(BenchmarkConfig, [ROWS]).methods()] == ["greedy", "spin", "vcd"]
    last = "rows=[{name: spin, mitigations: [spin]}, {name: greedy}]"
    assert [row.name for row in parse(BenchmarkConfig, [last]).methods()] == ["greedy", "spin"]


def test_one_seed_for_whatever_is_random():
    config = parse(BenchmarkConfig, [ROWS, "seed=5"])
    assert config.methods()[2].mitigations[0].seed == 5
    again = BenchmarkConfig.model_validate_json(config.model_dump_json())
    assert again.methods() == config.methods()


def test_flags():
    config = parse(BenchmarkConfig, ["--score-only", "--parser", "lmms-eval", "benchmarks.world.scenes=3"])
    assert config.score_only
    assert config.parser == "lmms-eval"
    assert config.benchmarks["world"].scenes == 3


def test_every_field_is_documented(capsys):
    with pytest.raises(SystemExit):
        load(BenchmarkConfig, ["--help"])
    lines = capsys.readouterr().out.splitlines()[4:]
    names = [line for line in lines if line and not line.startswith(" ")]
    assert all(
        doc.startswith("    ") for doc, before in zip(lines[1:], lines, strict=False) if before in names
    )


def test_several_models():
    config = parse(BenchmarkConfig, ["models.a.source=world", "models.b.source=org/b"])
    assert list(config.named_models()) == ["a", "b"]


@pytest.mark.parametrize(
    ("setting", "match"),
    [
        ("rows=[{name: a}, {name: a, mitigations: [spin]}]", "different name"),
        ("rows=[{name: a}, {name: b, mitigations: [greedy]}]", "one greedy row"),
        ("rows=[{name: greedy, mitigations: [spin]}]", "another name"),
        ("rows=[{name: a, mitigations: [spin], pending: later}]", "pending row"),
        ("rows=[{name: a, mitigations: ['sample:seed=3']}]", "no other seed in row a"),
        ("rows=[{name: a, mitigations: [vcd, dola]}]", "at most one decoder"),
        ("rows=[{name: ../a}]", "pattern"),
        ("private=[elsewhere]", "names of `benchmarks`"),
        ("benchmarks={}", "at least 1"),
        ("parser=mine", "strict"),
        ("correction=bonferroni", "holm"),
        ("judge=gpt4", "pattern"),
    ],
)
def test_mistakes_say_what_to_do(setting, match):
    with pytest.raises(ConfigError, match=match):
        parse(BenchmarkConfig, [setting])
    with pytest.raises(ConfigError, match="not both"):
        parse(BenchmarkConfig, ["model.source=world", "models.a.source=world"])
