"""`mitigations:`, the one way to say what is done against hallucination while decoding.

A list of any number of interventions and at most one decoder, the same in YAML, in
Python, on the command line and in a request. An item is a section, `{type: spin, k: 0.8}`,
or its short text, `spin:k=0.8,layers=0-12`.
"""

from __future__ import annotations

import difflib
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Discriminator, TypeAdapter, ValidationError

from sightline.config.base import Frozen
from sightline.config.decoders import (
    DECODERS,
    BeamConfig,
    DolaConfig,
    GreedyConfig,
    IcdConfig,
    OperaConfig,
    RcdConfig,
    SampleConfig,
    VcdConfig,
)
from sightline.config.describe import fields
from sightline.config.interventions import INTERVENTIONS, PaiConfig, SpinConfig, SteerConfig, VtiConfig
from sightline.config.layers import write_layers
from sightline.errors import ConfigError

METHODS: Mapping[str, type[Frozen]] = {
    method.model_fields["type"].default: method for method in (*INTERVENTIONS, *DECODERS)
}
"""Every `type` and its settings, interventions first."""
_SETTING = re.compile(r",\s*(?=[a-z_]+=)")
"""Where one setting ends: a comma before `name=`. Other commas belong to the value."""


def _read(value: Any) -> Any:
    """A short text or a mapping as the settings of its method; ValueError with the nearest right name."""
    if isinstance(value, str):
        value = _words(value)
    if not isinstance(value, Mapping):
        return value
    given = dict(value)
    name = given.pop("type", None)
    if name not in METHODS:
        raise ValueError(f"expected a type among {', '.join(METHODS)}{_meant(name, METHODS)}")
    method = METHODS[name]
    known = [field for field in method.model_fields if field != "type"]
    for key in given:
        if key not in known:
            has = ", ".join(known) or "no settings"
            raise ValueError(f"unknown setting `{key}` of {name}, which has {has}{_meant(key, known)}")
    try:
        return method(**given)
    except ValidationError as error:
        raise ValueError("; ".join(_sentences(name, error))) from error


def _words(text: str) -> dict[str, Any]:
    """`spin:k=0.8,alpha=0.1` as a mapping of texts; `null` is None."""
    name, _, settings = text.strip().partition(":")
    words: dict[str, Any] = {"type": name}
    for setting in _SETTING.split(settings) if settings else []:
        key, equals, value = setting.partition("=")
        if not equals or key in words:
            raise ValueError(f"expected {name}:key=value,key=value with every key once")
        words[key.strip()] = None if value == "null" else value.strip()
    return words


def _meant(word: Any, names: Iterable[str]) -> str:
    near = difflib.get_close_matches(str(word), list(names), n=1, cutoff=0.4)
    return f"; did you mean `{near[0]}`?" if near else ""


def _sentences(name: str, error: ValidationError) -> list[str]:
    """One for each field; of a field that may be several things, the first complaint."""
    by_field: dict[str, str] = {}
    for detail in error.errors():
        text = detail["msg"].removeprefix("Value error, ")
        by_field.setdefault(str(detail["loc"][0]), f"{text}, got {detail['input']!r}")
    return [f"`{field}` of {name}: {sentence}" for field, sentence in by_field.items()]


def is_decoder(item: Frozen) -> bool:
    """Whether the item decides how tokens are chosen; PAI does where its guidance is on."""
    return isinstance(item, DECODERS) or (isinstance(item, PaiConfig) and item.gamma != 1.0)


def _fit_together(items: tuple[Any, ...]) -> tuple[Any, ...]:
    """At most one decoder, and a method once: two settings of one method contradict each other."""
    deciding = [to_text(item) for item in items if is_decoder(item)]
    if len(deciding) > 1:
        raise ValueError(f"expected at most one decoder, got {' and '.join(deciding)}")
    for n, item in enumerate(items):
        same = [other for other in items[:n] if other.type == item.type]
        if same:
            raise ValueError(f"expected {item.type} once, got {to_text(same[0])} and {to_text(item)}")
    return items


Mitigation = Annotated[
    Annotated[
        VtiConfig
        | SteerConfig
        | SpinConfig
        | PaiConfig
        | GreedyConfig
        | BeamConfig
        | SampleConfig
        | VcdConfig
        | RcdConfig
        | IcdConfig
        | DolaConfig
        | OperaConfig,
        Discriminator("type"),
    ],
    BeforeValidator(_read),
]
"""One method with its settings; `type` chooses."""

Mitigations = Annotated[tuple[Mitigation, ...], AfterValidator(_fit_together)]
"""Interventions, in any order (the stack has its own), and at most one decoder."""

_ITEM: TypeAdapter[Mitigation] = TypeAdapter(Mitigation)
_LIST: TypeAdapter[tuple[Mitigation, ...]] = TypeAdapter(Mitigations)


def parse_text(text: str) -> Mitigation:
    """`spin:k=0.8,alpha=0.1,layers=0-3+8` as settings; what is not said has its default.

    Raises ConfigError that names the nearest right type or key.
    """
    return _checked(_ITEM, text)


def mitigations_of(items: Sequence[Any]) -> tuple[Mitigation, ...]:
    """Short texts, mappings or settings as one checked list; raises ConfigError."""
    return _checked(_LIST, list(items))


def to_text(item: Mitigation) -> str:
    """The inverse of `parse_text`, of what differs from the defaults: `spin:k=0.8`."""
    said = [
        f"{name}={_spelled(getattr(item, name))}"
        for name, info in type(item).model_fields.items()
        if name != "type" and getattr(item, name) != info.default
    ]
    return f"{item.type}:{','.join(said)}" if said else item.type


def _spelled(value: Any) -> str:
    if value is None:
        return "null"
    return write_layers(value) if isinstance(value, tuple) else f"{value}"


def _checked(adapter: TypeAdapter[Any], value: Any) -> Any:
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        got = repr(value) if isinstance(value, str) else ""
        texts = [d["msg"].removeprefix("Value error, ") for d in error.errors()]
        raise ConfigError(". ".join(texts) + (f", in {got}." if got else ".")) from error


def help_text() -> str:
    """Every method with its settings, their defaults and meaning."""
    blocks = []
    for name, method in METHODS.items():
        summary = " ".join((method.__doc__ or "").split())
        blocks.append(textwrap.fill(f"{name}: {summary}", 100, subsequent_indent="  "))
        for line in fields(method):
            if line.name != "type":
                text = f"  {line.name}={line.default}  {line.doc}"
                blocks.append(textwrap.fill(text, 100, subsequent_indent="      "))
    return "\n".join(blocks)
