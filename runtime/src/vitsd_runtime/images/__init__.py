"""From image files to what a model sees."""
