"""What a person types: flags are parsed here, one function is called, its result is shown."""
