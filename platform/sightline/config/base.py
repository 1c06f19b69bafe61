"""The ground of every schema: a frozen pydantic model, and the types that carry paths.

A path is made absolute when the configuration is loaded, relative to the folder the
command was given in: Ray's workers change their folder, so a relative path would
point elsewhere there. Anything with a scheme (`s3://...`) passes unchanged.
"""

from __future__ import annotations

import os
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, model_validator


class Frozen(BaseModel):
    """A configuration: immutable, complete, and closed to unknown keys."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        validate_default=True,
        protected_namespaces=(),
    )

    @model_validator(mode="before")
    @classmethod
    def _sections_keep_their_defaults(cls, values: Any) -> Any:
        """A job's `run: RunConfig = RunConfig(name="mine")` keeps its name when only `run.root` is given."""
        if not isinstance(values, dict):
            return values
        defaults = {name: info.default for name, info in cls.model_fields.items()}
        return {name: _under(given, defaults.get(name)) for name, given in values.items()}


def _under(given: Any, default: Any) -> Any:
    """`given` completed by what `default` sets explicitly; another `type` shares nothing."""
    if not isinstance(given, dict) or not isinstance(default, Frozen):
        return given
    if given.get("type", getattr(default, "type", None)) != getattr(default, "type", None):
        return given
    explicit = {name: getattr(default, name) for name in default.model_fields_set}
    return explicit | {name: _under(value, explicit.get(name)) for name, value in given.items()}


def absolute(path: str) -> str:
    """The path from the root on; what has a scheme (`s3://...`) is left as it is."""
    if "://" in path:
        return path
    return os.path.abspath(os.path.expanduser(path))


def absolute_if_local(name: str) -> str:
    """A model's name: an existing or dotted folder becomes absolute, a hub name stays."""
    is_folder = name.startswith((".", "/", "~")) or os.path.isdir(name)
    return absolute(name) if is_folder and name != "world" else name


def absolute_store(uri: str) -> str:
    """A tracking URI: relative sqlite files and plain paths become absolute.

    `mlflow` 3.17 refuses `file:` stores, so they are refused here, before any work.
    """
    if uri.startswith("file:") or "://" not in uri:
        raise ValueError("a tracking URI looks like sqlite:///mlflow.db or https://host:5000")
    prefix = "sqlite:///"
    return prefix + absolute(uri[len(prefix) :]) if uri.startswith(prefix) else uri


Location = Annotated[str, AfterValidator(absolute)]
"""A file or folder (made absolute) or a URI with a scheme."""

ModelSource = Annotated[str, AfterValidator(absolute_if_local)]
"""`world`, a folder (made absolute), or a name on the Hugging Face hub."""

TrackingUri = Annotated[str, AfterValidator(absolute_store)]
"""Where MLflow keeps its runs."""
