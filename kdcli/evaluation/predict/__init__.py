"""Run models over texts."""
