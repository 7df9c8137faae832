"""Metrics, by task."""
