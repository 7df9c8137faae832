"""Models as folders of weights: finding them, loading them, cutting smaller ones out of them."""
