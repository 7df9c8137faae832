"""Load models, run them, and build smaller ones from them."""
