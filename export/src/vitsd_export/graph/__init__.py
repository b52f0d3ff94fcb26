"""From trained weights to the inference graph."""
