"""The loader: files, then settings, then a closed schema; every mistake says what to do."""

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from sightline.config.dpo import DpoConfig
from sightline.config.extract import ExtractConfig
from sightline.config.loader import load, parse
from sightline.config.mine import MineConfig
from sightline.config.pretrain import PretrainConfig
from sightline.config.zero import read_deepspeed
from sightline.errors import ConfigError


def children_cpu_s() -> float:
    """CPU time of finished child processes: what a quiet machine's clock would show."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def yaml_file(folder: Path, name: str, text: str) -> str:
    path = folder / name
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize("schema", [DpoConfig, ExtractConfig, MineConfig, PretrainConfig])
def test_no_config_is_needed(schema):
    config = parse(schema, [])
    assert config == schema()
    assert not config.dry_run


def test_files_left_to_right_then_settings(tmp_path):
    first = yaml_file(tmp_path, "a.yaml", "training: {lr: 1e-4, beta: 0.2, epochs: 3}\n")
    second = yaml_file(tmp_path, "b.yaml", "training: {lr: 1e-5, beta: 0.3}\n")
    config = parse(DpoConfig, ["--config", first, second, "training.lr=1e-6", "--dry-run"])
    assert (config.training.lr, config.training.beta, config.training.epochs) == (1e-6, 0.3, 3)
    assert config.dry_run


def test_unknown_key_names_itself_its_neighbour_and_its_file(tmp_path):
    good = yaml_file(tmp_path, "good.yaml", "training: {lr: 1e-4}\n")
    bad = yaml_file(tmp_path, "bad.yaml", "training: {learning_rte: 1.0, betta: 0.2}\n")
    with pytest.raises(ConfigError) as error:
        parse(DpoConfig, ["--config", good, bad, "modle.source=x"])
    message = str(error.value)
    assert f"unknown key `training.betta` in {bad}; did you mean `training.beta`?" in message
    assert "unknown key `modle.source` in the command line; did you mean `model.source`?" in message
    assert "training.learning_rte" in message


def test_unknown_key_inside_a_typed_section():
    with pytest.raises(ConfigError, match=r"`dataset\.sceens`.*`dataset\.scenes`"):
        parse(DpoConfig, ["dataset.sceens=3"])


@pytest.mark.parametrize(
    ("argv", "match"),
    [
        (["training.lr=-1"], r"`training\.lr` in the command line.*greater than 0, got -1"),
        (["dataset.type=jsonl"], r"`dataset\.path` is required"),
        (["dataset.type=xml"], "one of world, jsonl"),
        (["training.global_batch=33"], "multiple of training.micro_batch"),
        (["resources.workers=3"], r"Set training\.global_batch to"),
        (["run.tracking_uri=file:runs"], "sqlite:///"),
        (["run.name=../elsewhere"], r"`run\.name`"),
        (["--lr", "3"], "without dashes"),
        (["training.yaml"], "--config in front"),
        (["--config"], "a YAML file after --config"),
        (["--config", "/nowhere.yaml"], r"/nowhere\.yaml"),
        (["training=3"], "training"),
        (["a-b=3"], "dotted key"),
    ],
)
def test_mistakes_are_config_errors_that_say_what_to_do(argv, match):
    with pytest.raises(ConfigError, match=match):
        parse(DpoConfig, argv)


def test_yaml_that_is_no_mapping_or_no_yaml(tmp_path):
    for text in ("- 1\n- 2\n", "a: [1\n"):
        with pytest.raises(ConfigError, match="bad.yaml"):
            parse(DpoConfig, ["--config", yaml_file(tmp_path, "bad.yaml", text)])


def test_paths_become_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights").mkdir()
    argv = ["run.root=out", "pairs=p", "model.source=weights", "dataset.type=jsonl", "dataset.path=d.jsonl"]
    config = parse(DpoConfig, argv)
    assert config.run.root == f"{tmp_path}/out"
    assert config.run.folder == f"{tmp_path}/out/dpo"
    assert config.run.tracking_uri == f"sqlite:///{tmp_path}/mlflow.db"
    assert config.pairs == f"{tmp_path}/p"
    assert config.model.source == f"{tmp_path}/weights"
    assert config.dataset.path == f"{tmp_path}/d.jsonl"


def test_addresses_and_hub_names_stay(tmp_path):
    argv = ["run.root=s3://bucket/runs", "run.tracking_uri=https://host:5000", "model.source=org/model"]
    config = parse(DpoConfig, argv)
    assert config.run.root == "s3://bucket/runs"
    assert config.run.tracking_uri == "https://host:5000"
    assert config.model.source == "org/model"


def test_a_section_keeps_the_defaults_of_its_job():
    assert parse(MineConfig, ["run.root=/x"]).run.name == "mine"
    assert parse(DpoConfig, ["run.root=/x"]).run.name == "dpo"


def test_optional_section_opens_with_its_first_setting():
    assert parse(DpoConfig, ["lora.rank=4"]).lora.rank == 4
    assert parse(DpoConfig, ["lora.rank=4", "lora=null"]).lora is None


def test_a_resolved_config_survives_json():
    config = parse(DpoConfig, ["lora.rank=4", "deepspeed=2", "dataset.scenes=7"])
    assert DpoConfig.model_validate(json.loads(config.model_dump_json())) == config


def test_configs_are_frozen():
    with pytest.raises(ValueError, match="frozen"):
        DpoConfig().dry_run = True


def test_every_field_is_documented(capsys):
    for schema in (DpoConfig, ExtractConfig, MineConfig, PretrainConfig):
        with pytest.raises(SystemExit) as leave:
            load(schema, ["--help"])
        assert leave.value.code == 0
        lines = capsys.readouterr().out.splitlines()[4:]
        names = [line for line in lines if line and not line.startswith(" ")]
        docs = [line for line, before in zip(lines[1:], lines, strict=False) if before in names]
        assert len(names) == len(docs)
        assert all(doc.startswith("    ") for doc in docs), "a field without documentation"


def test_mistake_on_the_command_line_leaves_with_2(capsys):
    with pytest.raises(SystemExit) as leave:
        load(DpoConfig, ["traning.lr=1"])
    assert leave.value.code == 2
    assert "did you mean `training.lr`" in capsys.readouterr().err


def test_help_is_fast_and_imports_neither_torch_nor_ray():
    code = (
        "import sys\nfrom sightline.config.loader import load\nfrom sightline.config.dpo import DpoConfig\n"
        "try: load(DpoConfig, ['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'ray', 'transformers', 'numpy'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    before = children_cpu_s()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert children_cpu_s() - before < 2.0
    assert "training.lr: float" in done.stdout


def test_deepspeed_stage_or_file(tmp_path):
    assert read_deepspeed(2) == {"zero_optimization": {"stage": 2}}
    path = tmp_path / "z.json"
    path.write_text('{"zero_optimization": {"stage": 3}}')
    assert read_deepspeed(str(path))["zero_optimization"]["stage"] == 3


@pytest.mark.parametrize("text", ["[]", "{", '{"train_batch_size": 4}'])
def test_deepspeed_file_that_cannot_be_used(tmp_path, text):
    path = tmp_path / "z.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match="z.json"):
        read_deepspeed(str(path))
