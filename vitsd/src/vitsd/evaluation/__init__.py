"""Predictions, metrics and explanations of trained and exported models."""
