"""Hostile files by the thousand: seeded mutants of small photos and weights, read within limits."""
