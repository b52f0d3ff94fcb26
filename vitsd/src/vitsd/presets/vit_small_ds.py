"""``vit-small-ds``: the published recipe for CIFAR-100, exactly.

32x32 images enlarged to 72x72, 144 tokens of length 64, 8 blocks of 4 heads, a large flattened
head: 21,787,748 weights.

Expected: 56.11 % top-1 and 82.27 % top-5 on the CIFAR-100 test set after 50 epochs, as published
(https://keras.io/examples/vision/vit_small_ds/; a vanilla ViT of the same size: 53.10 % and
80.53 %).
Reached: 55.08 % (95 % interval 54.10 to 56.05) and 82.66 %; with ``--no-spt --no-lsa`` 49.65 % and
78.29 %, so the two are worth 5.4 points (published: 3.0).
Cost: 45,026 images an epoch at 25,000 images a second on an NVIDIA H200 (``--backend jax
--precision mixed_bfloat16``): 2 minutes in all, 5 beside three other trainings. On two cores
of an AMD EPYC, 53 images a second (``--backend torch --precision mixed_bfloat16``): 12 hours.
"""

from vitsd.config import VitConfig
from vitsd.presets.preset import Preset
from vitsd.recipe import TrainingRecipe

PRESET = Preset(
    config=VitConfig(
        input_size=(32, 32, 3),
        num_classes=100,
        image_size=72,
        patch_size=6,
        hidden_dim=64,
        num_layers=8,
        num_heads=4,
        key_dim=64,
        mlp_units=(128, 64),
        head_units=(2048, 1024),
        pooling="flatten",
        attention_dropout=0.1,
        mlp_dropout=0.1,
        head_dropout=0.5,
    ),
    recipe=TrainingRecipe(
        epochs=50,
        batch_size=256,
        learning_rate=1e-3,
        warmup_fraction=0.1,
        weight_decay=1e-4,
        flip=True,
        rotation=0.02,
        zoom=0.2,
    ),
)
