"""What changes inputs, one module for each format; every change comes out of a seeded generator."""
