"""Readers of data formats, and what they have in common."""
