"""A module for each engine or maker of files, with its ``SUBJECTS``."""
