"""Search for the best student of a recipe: many trials, one teacher."""
