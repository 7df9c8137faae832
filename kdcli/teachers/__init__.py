"""Teachers that are black boxes: what they say of a text is all that is to be had of them."""
