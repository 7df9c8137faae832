"""The command line: each command parses flags, calls one function and shows its result."""
