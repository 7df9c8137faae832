"""Model card and HTML report of a run."""
