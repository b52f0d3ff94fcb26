"""From trained weights to the inference graph.

``weights`` reads them, ``folding`` makes them fewer, ``module`` wraps one of the two graphs built
from them: ``float_graph`` for every file but one kind, ``integer_graph`` for integer-only files.
"""
