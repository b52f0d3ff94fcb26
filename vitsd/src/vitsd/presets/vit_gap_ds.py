"""``vit-gap-ds``: the blocks of ``vit-small-ds`` on a quarter of its tokens, pooled.

32x32 images enlarged to 36x36, 36 tokens of length 64, 8 blocks of 4 heads, global average pooling:
710,244 weights.

Reached on CIFAR-100: 42.73 % top-1 and 73.67 % top-5 of the test images after 24 epochs (epoch 22
was best on validation).
Cost: 24 epochs took 70 minutes on two AVX-512 cores, beside other work.
"""

from vitsd.config import VitConfig
from vitsd.presets.preset import Preset
from vitsd.recipe import TrainingRecipe

PRESET = Preset(
    config=VitConfig(
        input_size=(32, 32, 3),
        num_classes=100,
        image_size=36,
        patch_size=6,
        hidden_dim=64,
        num_layers=8,
        num_heads=4,
        key_dim=64,
        mlp_units=(128, 64),
        head_units=(),
        pooling="gap",
        attention_dropout=0.0,
        mlp_dropout=0.0,
        head_dropout=0.0,
    ),
    recipe=TrainingRecipe(
        epochs=24,
        batch_size=128,
        learning_rate=2e-3,
        warmup_fraction=0.08,
        weight_decay=0.05,
        global_clipnorm=1.0,
        flip=True,
        rotation=0.0,
        zoom=0.0,
        crop_padding=4,
        label_smoothing=0.1,
    ),
)
