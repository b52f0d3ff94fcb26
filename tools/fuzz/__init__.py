"""Hostile inputs of every kind, and what the code makes of them."""
