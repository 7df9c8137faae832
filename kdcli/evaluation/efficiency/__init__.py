"""Parameters, size on disk and latency of models."""
