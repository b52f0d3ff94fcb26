"""Labeled images: sources, splits and their statistics."""
