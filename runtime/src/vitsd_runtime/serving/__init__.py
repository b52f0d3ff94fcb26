"""Answer over HTTP: ``vitsd-serve``. Needs ``vitsd-runtime[serve]``, imported when it is used.

An image's way: :mod:`.connection` (bytes of a client, cut off if it is slow), :mod:`.app` (routes,
token, metrics), :mod:`.uploads` or :mod:`.inference` (what a request holds), :mod:`.models` (which
model answers), :mod:`.batching` (threads that decode and threads that run the engine). A model's
way: :mod:`.loading`, verified there, to :mod:`.models`.
"""
