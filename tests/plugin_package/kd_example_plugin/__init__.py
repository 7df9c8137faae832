"""A loss, a reader, a teacher and a stage for kd, offered by entry points (pyproject.toml)."""
