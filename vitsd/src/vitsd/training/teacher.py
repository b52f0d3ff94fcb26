"""Learning from a trained model's answers (distillation).

The teacher sees each image as the student does, after all augmentation, and its probabilities take
the place of a share of the label. The cross-entropy to such labels is that of distillation at
temperature 1, so the training step stays as it is, on every backend.

Sources: G. Hinton et al., "Distilling the Knowledge in a Neural Network", arXiv:1503.02531;
L. Beyer et al., "Knowledge distillation: A good teacher is patient and consistent",
arXiv:2106.05237 (both see the same crops and mixtures).
"""

from __future__ import annotations

from collections.abc import Sequence

from vitsd.evaluation.predict import open_model
from vitsd.hub.pretrained import locate
from vitsd_runtime.classifier import softmax
from vitsd_runtime.errors import UsageError
from vitsd_runtime.formats import require_spec
from vitsd_runtime.system.text import printable
from vitsd_runtime.types import Float32Array, PathLike, UInt8Array


class Teacher:
    """A trained or exported model of the same classes.

    Args:
        name_or_path: as for :func:`vitsd.from_pretrained`, or an exported file: an int8 ``.tflite``
            file answers soonest.
        share: of the label, in (0, 1].
        batch_size: images that it is asked for at once.

    Raises:
        UsageError: nothing is found under that name.
        VitsdError: the file is damaged, can't be downloaded, or its engine is missing.
    """

    def __init__(self, name_or_path: PathLike, share: float, batch_size: int) -> None:
        path = locate(name_or_path)
        self._name, self._spec = printable(name_or_path), require_spec(path)
        self._share = share
        self._logits = open_model(path, batch_size)

    def require_fit(self, class_names: Sequence[str], input_size: Sequence[int]) -> None:
        """Check that it knows the same classes, from images of the same size.

        Raises:
            UsageError: it does not.
        """
        if self._spec.class_names != tuple(class_names):
            raise UsageError(
                f"`teacher` {self._name} has other classes than the data; train one on these data."
            )
        if self._spec.input_size != tuple(input_size):
            theirs, ours = (
                "x".join(map(str, size)) for size in (self._spec.input_size, input_size)
            )
            raise UsageError(f"`teacher` {self._name} takes images of {theirs}; these are {ours}.")

    def labels(self, images: UInt8Array, labels: Float32Array) -> Float32Array:
        """Labels in which its answers have their share.

        Args:
            images: ``(n, height, width, channels)``.
            labels: ``(n, classes)``, rows that sum up to 1.

        Returns:
            Labels of the same shape, whose rows sum up to 1.
        """
        answers = softmax(self._logits(images))
        taught: Float32Array = labels + self._share * (answers - labels)
        return taught
