"""Black box teachers, of which only the predictions are known."""
