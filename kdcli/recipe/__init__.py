"""Recipes: their schema, and loading and validating them."""
