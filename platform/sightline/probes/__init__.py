"""Probes: what a model's activations know about its hallucinations, and what explains it away.

A bank of probes, one a site, learns in one pass (`bank`); `splits` keeps images apart,
`controls` says what the question alone would have scored, `results` measures, `artifact`
keeps a probe as safetensors and JSON, `figures`, `bank_figure` and `page` show it. Nothing here knows
Ray, or how the activations were made.
"""
