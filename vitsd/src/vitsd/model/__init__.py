"""The Vision Transformer as Keras layers."""
