"""Quality gates, and their results in the formats of CI systems."""
