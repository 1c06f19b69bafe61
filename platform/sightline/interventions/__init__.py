"""Interventions: what is changed inside a model while it answers, and undone afterwards.

`base` says what one is, `stack` puts several on a model, `steering` holds the steering
methods with `directions` as their artefact (`derive` and `perturb` make them), `bake` writes
additive steering into weights. Nothing here knows Ray, datasets or how answers are decoded.
"""
