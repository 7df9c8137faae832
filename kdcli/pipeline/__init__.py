"""Plan and run the stages of a recipe."""
