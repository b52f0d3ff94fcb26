"""Model files and the spec inside them."""
