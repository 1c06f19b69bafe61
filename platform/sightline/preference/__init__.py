"""Preference pairs: mining conditions, judges, caption pairs, filters, wrong images."""
