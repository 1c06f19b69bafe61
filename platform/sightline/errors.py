"""Every error Sightline raises on purpose, in one tree.

    SightlineError
    ├── ConfigError            a setting is unknown, contradictory or out of range
    ├── DataError              an input row, file or dataset is not what it must be
    │   ├── ImageError         one image cannot be read, or may not be
    │   └── PairError          a preference pair lacks a side, or both sides are equal
    ├── ModelError             a model cannot be loaded or used as asked
    │   ├── UnknownFamilyError no adapter knows this architecture
    │   ├── SpanError          image, question or answer could not be located exactly
    │   └── InterventionError  an intervention cannot act on this model, or did not
    ├── CacheMismatchError     cached values belong to another model, template or row
    ├── ResourceError          the cluster can never provide what was asked for
    └── StorageError           a folder or URI cannot be written or is incomplete

Each message says what was expected, what came, and what to do next. The errors
carry only strings, so they survive pickling between Ray processes.
"""

from __future__ import annotations


class SightlineError(Exception):
    """Root of the tree. `expected`, `got` and `hint` make up the message.

    Raise it as `DataError(expected="a non-empty dataset", got="0 rows in x.jsonl",
    hint="check the `split` column")`, or with one finished sentence.
    """

    def __init__(self, message: str = "", *, expected: str = "", got: str = "", hint: str = ""):
        if not message:
            message = f"expected {expected}, got {got}."
            if hint:
                message += f" {hint[0].upper()}{hint[1:]}."
        super().__init__(message)

    def __reduce__(self) -> tuple[type[SightlineError], tuple[str]]:
        return (type(self), (str(self),))


class ConfigError(SightlineError):
    """A setting is unknown, contradictory or out of range."""


class DataError(SightlineError):
    """An input row, file or dataset is not what it must be."""


class ImageError(DataError):
    """One image cannot be read, or may not be (format, size)."""


class PairError(DataError):
    """A preference pair lacks a side, or its sides are equal."""


class ModelError(SightlineError):
    """A model cannot be loaded or used as asked."""


class UnknownFamilyError(ModelError):
    """No adapter knows this architecture."""


class SpanError(ModelError):
    """Image, question, answer or generation prompt could not be located exactly."""


class InterventionError(ModelError):
    """An intervention cannot be attached to this model as asked, or its hooks were never called."""


class CacheMismatchError(SightlineError):
    """Cached values belong to another model, processor, template or row."""


class ResourceError(SightlineError):
    """The cluster can never provide what was asked for."""


class StorageError(SightlineError):
    """A folder or URI cannot be written, or holds an incomplete result."""
