"""What a person writes: the recipe, its schema and its loader."""
