"""Quality gates for CI, and their results in the formats of CI systems."""
