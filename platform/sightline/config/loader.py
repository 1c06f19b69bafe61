"""From a command line to a frozen configuration.

    --config a.yaml b.yaml   YAML files, merged left to right
    key=value                then single settings, dotted: training.lr=1e-6
    --dry-run or --check     the same as dry_run=true
    --score-only, --parser X the same as score_only=true, parser=X
    --help                   every field with its type, default and meaning

Knows YAML, OmegaConf and pydantic; knows no job in particular. A mistake becomes one
`ConfigError` that names, for each wrong key, the nearest right one and the file it came from.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ValidationError

from sightline.config.describe import fields, help_text
from sightline.errors import ConfigError

Schema = TypeVar("Schema", bound=BaseModel)
COMMAND_LINE = "the command line"


def load(schema: type[Schema], argv: Sequence[str] | None = None) -> Schema:
    """The configuration that `argv` asks for; None = this process's own arguments.

    `--help` writes the fields to stdout and leaves with status 0; a mistake is written to
    stderr as one ConfigError message and leaves with status 2. To get the exception, use `parse`.
    """
    argv = sys.argv[1:] if argv is None else argv
    if "--help" in argv or "-h" in argv:
        sys.stdout.write(help_text(schema))
        raise SystemExit(0)
    try:
        return parse(schema, argv)
    except ConfigError as error:
        sys.stderr.write(f"ConfigError: {error}\n")
        raise SystemExit(2) from error


def parse(schema: type[Schema], argv: Sequence[str]) -> Schema:
    """Like `load`, but raises ConfigError and knows no `--help`."""
    files, settings = _split(argv)
    layers = [_Layer(path, _read_yaml(path)) for path in files]
    layers += [_Layer(COMMAND_LINE, _read_setting(setting)) for setting in settings]
    merged = _merge(layers)
    try:
        return schema.model_validate(merged)
    except ValidationError as error:
        raise ConfigError(_explain(schema, error, merged, layers)) from error


@dataclass(frozen=True, slots=True)
class _Layer:
    origin: str
    values: dict[str, Any]


_FLAGS = {"--dry-run": "dry_run=true", "--check": "dry_run=true", "--score-only": "score_only=true"}
"""What may be written as a flag; a job without that setting says so."""


def _split(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """YAML files and `key=value` settings, each in the order given."""
    files: list[str] = []
    settings: list[str] = []
    in_config = False
    words = iter(argv)
    for word in words:
        if word == "--config":
            in_config = True
        elif word in _FLAGS:
            settings.append(_FLAGS[word])
            in_config = False
        elif word == "--parser":
            settings.append(f"parser={next(words, '')}")
            in_config = False
        elif word.startswith("-"):
            raise ConfigError(
                expected=f"--config FILE..., key=value, {', '.join(_FLAGS)} or --help",
                got=word,
                hint=f"settings are written without dashes: {word.lstrip('-')}=...",
            )
        elif "=" in word:
            settings.append(word)
            in_config = False
        elif in_config:
            files.append(word)
        else:
            raise ConfigError(
                expected="key=value", got=word, hint="a YAML file needs --config in front of it"
            )
    if "--config" in argv and not files:
        raise ConfigError(expected="a YAML file after --config", got="none")
    return files, settings


def _read_yaml(path: str) -> dict[str, Any]:
    try:
        node = OmegaConf.load(path)
        values = OmegaConf.to_container(node, resolve=False)
    except (OSError, yaml.YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(expected="a readable YAML file", got=f"{path} ({error})") from error
    if not isinstance(values, dict):
        raise ConfigError(expected=f"a mapping of settings in {path}", got=type(values).__name__)
    return {str(key): value for key, value in values.items()}


def _read_setting(setting: str) -> dict[str, Any]:
    key = setting.partition("=")[0]
    if not all(part.isidentifier() for part in key.split(".")):
        raise ConfigError(expected="a dotted key such as training.lr before `=`", got=setting)
    try:
        values = OmegaConf.to_container(OmegaConf.from_dotlist([setting]), resolve=False)
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(
            expected="a value in YAML's notation", got=setting, hint="quote special characters"
        ) from error
    assert isinstance(values, dict)
    return {str(k): v for k, v in values.items()}


def _merge(layers: Sequence[_Layer]) -> dict[str, Any]:
    try:
        node = OmegaConf.merge({}, *[layer.values for layer in layers])
        merged = OmegaConf.to_container(node, resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigError(f"the settings do not fit together: {error}") from error
    assert isinstance(merged, dict)
    return {str(key): value for key, value in merged.items()}


def _explain(
    schema: type[BaseModel], error: ValidationError, merged: dict[str, Any], layers: Sequence[_Layer]
) -> str:
    """One line a mistake: key, what was expected, what came, from where."""
    names = [line.name for line in fields(schema)]
    lines = []
    for detail in error.errors():
        key = ".".join(_key_path(detail["loc"], merged))
        origin = _origin(key, layers)
        if detail["type"] == "extra_forbidden":
            lines += [
                f"unknown key `{leaf}` in {origin}; did you mean `{nearest(leaf, names)}`?"
                for leaf in _leaves(key, detail["input"])
            ]
        elif detail["type"] == "missing":
            lines.append(f"`{key}` is required by its section in {origin} and was not given.")
        else:
            text = detail["msg"].removeprefix("Value error, ")
            lines.append(f"`{key}` in {origin}: {text}, got {detail['input']!r}.")
    return "\n".join(dict.fromkeys(lines))


def _leaves(key: str, value: Any) -> Iterator[str]:
    """`traning` with {"lr": 1} below it is one unknown key, `traning.lr`."""
    if isinstance(value, dict) and value:
        for name, below in value.items():
            yield from _leaves(f"{key}.{name}", below)
    else:
        yield key


def nearest(key: str, names: Sequence[str]) -> str:
    """The valid dotted name (field or section) that `key` most likely meant."""
    section, _, last = key.rpartition(".")
    sections = {name.rpartition(".")[0] for name in names} - {""}

    def likeness(name: str) -> float:
        name_section, _, name_last = name.rpartition(".")
        whole = difflib.SequenceMatcher(None, key, name).ratio()
        end = difflib.SequenceMatcher(None, last, name_last).ratio()
        same_section = section != "" and name_section == section
        return end + 0.5 * whole + 0.5 * same_section

    return max([*names, *sorted(sections)], key=likeness)


def _key_path(loc: Sequence[int | str], merged: dict[str, Any]) -> Iterator[str]:
    """pydantic's location without the union tags that it puts between keys."""
    node: Any = merged
    for i, part in enumerate(loc):
        known = part in node if isinstance(node, dict) else isinstance(part, int)
        if not known and (i < len(loc) - 1 or not isinstance(node, dict)):
            continue  # a tag, such as `world` in ("dataset", "world", "scenes")
        if known:
            node = node[part]
        yield str(part)


def _origin(key: str, layers: Sequence[_Layer]) -> str:
    """The last layer that set `key`, or the section it stands in."""
    parts = key.split(".")
    for depth in range(len(parts), 0, -1):
        for layer in reversed(layers):
            node: Any = layer.values
            for part in parts[:depth]:
                node = node.get(part, _NOTHING) if isinstance(node, dict) else _NOTHING
            if node is not _NOTHING:
                return layer.origin
    return "the defaults"


_NOTHING = object()
