"""Millions of images on clusters that exist: Ray Data and Spark; a table of answers in Parquet.

The images that are meant become a plan of chunks, the same one each time. A worker reads a chunk's
images itself, so that no reader can take the place of a model nor the other way round, answers them
and writes one part of the result, whole or not at all and under the chunk's own name. So work that
is done twice leaves one part, and what is in the result already is not done again.
"""
