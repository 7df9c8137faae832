"""Statistics and warnings about a data set."""
