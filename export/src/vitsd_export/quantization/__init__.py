"""Quantization: recipes, ranges, the search for precisions, and one quantizer per format."""
