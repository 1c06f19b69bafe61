"""Texts found by image: the nearest scenes of a corpus, by the model's own image embedding."""
