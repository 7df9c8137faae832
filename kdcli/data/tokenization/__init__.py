"""Tokens and batches."""
