"""Sightline finds and reduces hallucinations in vision-language models."""

from sightline import torchvision_cpu as _torchvision_cpu
from sightline.records import Answer, Example, PreferencePair

__all__ = ["Answer", "Example", "PreferencePair", "__version__"]
__version__ = "0.1.0"

_torchvision_cpu.install()
