"""What running a model may take; :mod:`vitsd_runtime.spec.limits` bounds its file and its spec.

``vit-small-ds``, the largest preset, has a file of 87 MB, holds 3 MB of intermediate results at
once and takes 0.3 thousand million multiplications for an image. ViT-Base/16 at 224 pixels, which
no small device runs well, has 346 MB and 18 thousand million.
"""

from __future__ import annotations

MAX_LIVE_BYTES = 256 << 20
"""Of intermediate results that are needed at the same time, for one image."""
MAX_WORK = 20_000_000_000
"""Multiplications, and numbers read and written, for one image."""
MAX_OPERATIONS = 20_000
MAX_TENSORS = 40_000
MAX_ENDS = 256
"""Inputs, or outputs, of an operation."""
MAX_NAME_BYTES = 1 << 16
MAX_SCALES = 1 << 16
"""Of a quantized tensor. Parts of a FlatBuffer may be shared, so each list needs its limit."""
MAX_RANK = 6
"""Dimensions of a tensor."""
MAX_DIMENSION = 2**31 - 1
MAX_VALUES = 1024
"""Numbers of a constant that can be axes, margins, a shape, or indices of pixels."""
