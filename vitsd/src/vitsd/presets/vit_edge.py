"""``vit-edge``: for small CPUs. Tokens by convolutions, few blocks, pooled, taught by a CNN.

32x32 pixels; three 3x3 convolutions make 64 tokens of length 128; 5 blocks of 4 heads of 32 with
Locality Self-Attention, global average pooling: 942,153 weights.

Reached on CIFAR-100: 75.45 % top-1 and 92.87 % top-5 of the test images, with a teacher of 77.34 %
(``tools/cnn_teacher.py``, which trains both). The shipped model ``vit-edge-cifar100`` is this one;
its card says more. Without a teacher, ``vitsd-train`` trains the same from the labels alone.
Cost: 45,026 images an epoch at 83,000 images a second on an NVIDIA H200 (JAX, bfloat16), 6 minutes
beside three other trainings.
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
        spt=False,
        stem_filters=(32, 64),
        hidden_dim=128,
        num_layers=5,
        num_heads=4,
        key_dim=32,
        mlp_units=(384, 128),
        mlp_output_activation=False,
        head_units=(),
        pooling="gap",
        attention_dropout=0.0,
        mlp_dropout=0.0,
        head_dropout=0.0,
    ),
    recipe=TrainingRecipe(
        epochs=210,
        batch_size=500,
        optimizer="muon",
        learning_rate=2e-3,
        warmup_fraction=0.08,
        weight_decay=0.1,
        global_clipnorm=1.0,
        flip=True,
        rotation=0.0,
        zoom=0.0,
        crop_padding=4,
        camera=0.1,
        mixup_alpha=0.2,
        cutmix_alpha=1.0,
        teacher_share=0.7,
        precision="mixed_bfloat16",
    ),
)
