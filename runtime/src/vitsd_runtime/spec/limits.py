"""What a model for a small device can be. More is refused before it costs memory or time.

Models come from anyone, and a file of a few kilobytes can describe one that takes gigabytes. The
limits are several times what the largest preset, ``vit-small-ds``, needs.
"""

from __future__ import annotations

MAX_JSON_BYTES = 8 * 2**20
"""Of a spec: 100,000 class names and all its sections are less."""
MAX_MODEL_BYTES = 512 * 2**20
"""Of a model file: half the memory of a small Raspberry Pi; ``vit-small-ds`` takes 87 MB."""
MAX_WEIGHTS = MAX_MODEL_BYTES // 4
"""Of a model, float32: those of a ViT-Base (86 million), and half as many more."""
MAX_SIDE = 1024
"""Pixels of an image's side: a batch of 8 is 100 MB of float32."""
MAX_CLASSES = 100_000
"""ImageNet-21k has 21,841."""
MAX_FINGERPRINT_HASHES = 2048
"""Of 48 bits each, that say which images a model was trained on: 16 kB as text."""
MAX_GOLDEN_IMAGES = 16
"""With known answers."""
MAX_GOLDEN_TEXT = 2**17
"""Characters of one of these images, or of their logits."""
MAX_LAYERS = 64
"""Transformer blocks: building one takes Keras 25 ms; the largest ViTs have 48."""
MAX_HEADS = 64
"""Attention heads of a block."""
MAX_UNITS = 16_384
"""Length of a token, a key, or a dense layer's output."""
MAX_DENSE_LAYERS = 16
"""Dense layers of a block, or of the head."""
MAX_SCORES = 2**26
"""Numbers in the attention of one block and image, heads x tokens x tokens: 256 MB of float32, such
as 4 heads on 4,096 tokens."""
