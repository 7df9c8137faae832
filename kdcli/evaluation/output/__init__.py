"""The evaluation document, its summary, and results for each example."""
