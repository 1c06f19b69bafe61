"""The fields of a schema as text: dotted name, type, default, documentation."""

from __future__ import annotations

import inspect
import textwrap
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined


@dataclass(frozen=True, slots=True)
class FieldLine:
    """One leaf of a schema."""

    name: str
    type: str
    default: str
    doc: str


def fields(schema: type[BaseModel], prefix: str = "") -> list[FieldLine]:
    """Every leaf, sections unfolded; of alternative sections, each leaf once, with its `type`s."""
    lines: list[FieldLine] = []
    for name, info in schema.model_fields.items():
        sections = list(_sections(info.annotation))
        dotted = f"{prefix}{name}"
        if not sections or _is_optional(info.annotation):
            lines.append(FieldLine(dotted, _type_name(info.annotation), _default(info), _doc(info)))
        if len(sections) == 1:
            lines += _section_lines(sections[0], dotted, info.default)
        elif sections:
            lines += _alternatives(sections, dotted, info.default)
    return lines


def _section_lines(section: type[BaseModel], dotted: str, default: Any) -> list[FieldLine]:
    given = default if isinstance(default, section) else None
    return [_override(line, given, len(dotted) + 1) for line in fields(section, f"{dotted}.")]


def _alternatives(sections: list[type[BaseModel]], dotted: str, default: Any) -> list[FieldLine]:
    """Leaves of a discriminated union: `type` first, then each leaf with the types that know it."""
    by_name: dict[str, FieldLine] = {}
    known: dict[str, list[str]] = {}
    for section in sections:
        tag = _type_name(section.model_fields["type"].annotation)
        for line in _section_lines(section, dotted, default):
            by_name.setdefault(line.name, line)
            known.setdefault(line.name, []).append(tag)
    choice = by_name.pop(f"{dotted}.type")
    tags = known.pop(choice.name)
    lines = [FieldLine(choice.name, " | ".join(tags), getattr(default, "type", choice.default), choice.doc)]
    for name, line in by_name.items():
        only = "" if known[name] == tags else f" (type {' or '.join(known[name])})"
        lines.append(FieldLine(name, line.type, line.default, line.doc + only))
    return lines


def help_text(schema: type[BaseModel]) -> str:
    """What `--help` writes."""
    head = inspect.cleandoc(schema.__doc__ or schema.__name__)
    usage = "Usage: [--config FILE.yaml ...] [key=value ...] [--dry-run] [--help]"
    blocks = [head, usage]
    for line in fields(schema):
        doc = textwrap.fill(line.doc, 96, initial_indent="    ", subsequent_indent="    ")
        blocks.append(f"{line.name}: {line.type} = {line.default}" + (f"\n{doc}" if doc else ""))
    return "\n\n".join(blocks[:2]) + "\n\n" + "\n".join(blocks[2:]) + "\n"


def _override(line: FieldLine, section: BaseModel | None, skip: int) -> FieldLine:
    """A section's default object (`RunConfig(name="mine")`) wins over its class's defaults."""
    value: Any = section
    for part in line.name[skip:].split("."):
        if not isinstance(value, BaseModel) or part not in type(value).model_fields:
            return line
        value = getattr(value, part)
    return FieldLine(line.name, line.type, _plain(value), line.doc)


def _sections(annotation: Any) -> Iterator[type[BaseModel]]:
    """The BaseModel classes an annotation allows."""
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        yield annotation
    elif typing.get_origin(annotation) in (Union, types.UnionType, Annotated):
        for member in typing.get_args(annotation):
            yield from _sections(member)


def _is_optional(annotation: Any) -> bool:
    return typing.get_origin(annotation) in (Union, types.UnionType) and type(None) in typing.get_args(
        annotation
    )


def _type_name(annotation: Any) -> str:
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return _type_name(args[0])
    if origin is Literal:
        return " | ".join(str(arg) for arg in args)
    if origin in (Union, types.UnionType):
        return " | ".join(dict.fromkeys(_type_name(arg) for arg in args))
    if origin in (tuple, list):
        return f"list of ({_type_name(args[0])})"
    if annotation is type(None):
        return "null"
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        return "section"
    return getattr(annotation, "__name__", str(annotation))


def _default(info: FieldInfo) -> str:
    return "required" if info.default is PydanticUndefined else _plain(info.default)


def _plain(value: Any) -> str:
    """YAML's spelling, so that it can be copied into a file or a command."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple | list):
        return "[" + ", ".join(_plain(v) for v in value) + "]"
    return str(value)


def _doc(info: FieldInfo) -> str:
    return " ".join((info.description or "").split())
