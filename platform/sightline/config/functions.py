"""The user's own functions in settings: `module:function`, imported from where Python looks."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from sightline.errors import ConfigError


def load_function(name: str) -> Callable[..., Any]:
    """The function named `module:function`. Raises ConfigError when there is none."""
    module, _, function = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), function, None)
    except ModuleNotFoundError as error:
        raise ConfigError(expected=f"a module that can be imported in {name!r}", got=str(error)) from error
    if not callable(found):
        raise ConfigError(expected=f"a function {function!r} in {module}", got=type(found).__name__)
    return found
