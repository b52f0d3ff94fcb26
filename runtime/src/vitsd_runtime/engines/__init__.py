"""Inference engines, each imported only when a model needs it."""
