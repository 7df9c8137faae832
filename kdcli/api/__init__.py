"""Functions behind the commands and the Python interface."""
