"""Evaluation of classifiers: metrics, confidence intervals, size and speed."""
