"""A student that answers where it is sure, and defers other texts to its teacher."""
