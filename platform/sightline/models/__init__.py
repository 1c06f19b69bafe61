"""The only door to transformers' model classes: loading, spans, generation, scoring.

Start at `vlm.Vlm`. One family of architectures lives in one file of `adapters/`.
Nothing is imported here, so that `sightline.models.prompts` stays light.
"""
