"""``vit-nano``: for microcontrollers with 512 kB of flash and 256 kB of RAM.

28x28 pixels, 49 tokens of length 64 that three convolutions make, 4 blocks of 2 heads of 32, global
average pooling: 161,438 weights, 9.6 million multiplications. As an integer-only file for
TensorFlow Lite Micro: 73,760 bytes of arena, 271 kB of flash (``docs/guides/export.md``).

Reached on Fashion-MNIST: 91.18 % of the test images after 8 epochs, the last of which was best on
validation (91.99 %): ``vitsd-train --preset vit-nano --data fashion-mnist --backend torch``.
Cost: 54,000 images an epoch, 72 seconds on one busy AVX-512 core with bfloat16: 10 minutes.
CIFAR-10 (``--image-size 32``) was not measured.
"""

from vitsd.config import VitConfig
from vitsd.presets.preset import Preset
from vitsd.recipe import TrainingRecipe

PRESET = Preset(
    config=VitConfig(
        input_size=(28, 28, 1),
        num_classes=10,
        image_size=28,
        patch_size=4,
        spt=False,
        stem_filters=(16, 32),
        hidden_dim=64,
        num_layers=4,
        num_heads=2,
        key_dim=32,
        mlp_units=(128, 64),
        mlp_output_activation=False,
        head_units=(),
        pooling="gap",
        attention_dropout=0.0,
        mlp_dropout=0.0,
        head_dropout=0.0,
    ),
    recipe=TrainingRecipe(
        epochs=8,
        batch_size=64,
        learning_rate=2e-3,
        warmup_fraction=0.08,
        weight_decay=0.05,
        global_clipnorm=1.0,
        flip=True,
        rotation=0.0,
        zoom=0.0,
        label_smoothing=0.1,
        precision="mixed_bfloat16",
    ),
)
