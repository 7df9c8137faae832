"""Size, memory, FLOPs and speed of models."""
