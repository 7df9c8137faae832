"""Measuring classifiers: what they get right, and what they cost."""
