"""Predictions of models, and their calibration on validation texts."""
