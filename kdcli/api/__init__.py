"""What commands and the Python interface call."""
