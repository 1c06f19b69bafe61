"""Activations on disk: where in a model they were taken, and the store that keeps them.

Knows numpy, HDF5 and files; no model, no torch and no Ray.
"""
