"""One module for each protocol: the form of its requests and of its answers."""
