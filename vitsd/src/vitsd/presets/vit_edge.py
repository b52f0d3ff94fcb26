"""``vit-edge``: the blocks of ``vit-small-ds`` for a small CPU: few tokens, pooled, no head MLP.

32x32 pixels, 64 tokens of length 128, 6 blocks of 4 heads of 32, global average pooling: 1,044,938
weights.

Reached on CIFAR-100: 66.80 % top-1 and 89.61 % top-5 of the test images after 100 epochs (epoch 94
was best on validation). The shipped model `vit-edge-cifar100` was then fine-tuned for cameras; its
card says how.
Cost: 45,000 images an epoch, 98 to 110 seconds on two AVX-512 cores with bfloat16 (``--backend
torch``): 3 hours. Where the processor has no bfloat16, ``--precision float32`` is faster.
"""

from vitsd.config import VitConfig
from vitsd.presets.preset import Preset
from vitsd.recipe import TrainingRecipe

PRESET = Preset(
    config=VitConfig(
        input_size=(32, 32, 3),
        num_classes=100,
        image_size=32,
        patch_size=4,
        hidden_dim=128,
        num_layers=6,
        num_heads=4,
        key_dim=32,
        mlp_units=(384, 128),
        head_units=(),
        pooling="gap",
        attention_dropout=0.0,
        mlp_dropout=0.0,
        head_dropout=0.0,
        stochastic_depth=0.05,
    ),
    recipe=TrainingRecipe(
        epochs=100,
        batch_size=128,
        learning_rate=2e-3,
        warmup_fraction=0.08,
        weight_decay=0.05,
        global_clipnorm=1.0,
        flip=True,
        rotation=0.0,
        zoom=0.0,
        crop_padding=4,
        mixup_alpha=0.2,
        cutmix_alpha=1.0,
        label_smoothing=0.1,
        precision="mixed_bfloat16",
    ),
)
