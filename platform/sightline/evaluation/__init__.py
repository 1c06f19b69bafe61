"""Measure a model on questions with known answers, compare two, decide, and report.

`predictions` asks, `scoring` counts, `compare` pairs, `gate` decides, `report` shows,
`run_folder` keeps. Knows models only through `models.Vlm`, and nothing of Ray.
"""
