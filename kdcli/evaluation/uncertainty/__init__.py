"""Intervals by bootstrap, and variance over seeds."""
