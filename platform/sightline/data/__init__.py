"""Datasets as `Example` rows, and images: safe decoding, hashing, corruptions."""
