"""A loss, reader, teacher, student family and stage, offered by entry points (pyproject.toml)."""
