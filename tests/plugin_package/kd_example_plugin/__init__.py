"""A loss, a reader and a teacher for kd, offered by entry points (see pyproject.toml)."""
