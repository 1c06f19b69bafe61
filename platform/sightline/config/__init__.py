"""What a run is asked to do: frozen schemas, one file a job, and the loader that fills them.

Nothing here imports torch or ray, so `--help` answers at once and a configuration
can be checked on a machine that has neither.
"""

from sightline.config.base import Frozen
from sightline.config.loader import load, parse

__all__ = ["Frozen", "load", "parse"]
