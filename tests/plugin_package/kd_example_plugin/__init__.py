"""A loss, a reader, a teacher, a student family and a stage for kd, offered by entry points (pyproject.toml)."""
