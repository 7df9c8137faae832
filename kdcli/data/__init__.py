"""Texts and labels: from where they lie to batches of token ids."""
