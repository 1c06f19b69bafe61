"""Sightline finds and reduces hallucinations in vision-language models."""

__version__ = "0.1.0"
