"""Export of classifiers to formats that run without PyTorch."""
