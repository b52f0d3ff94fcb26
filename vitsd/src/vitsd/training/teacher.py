"""Learning from a trained model's answers (distillation).

The teacher sees each image as the student does, after all augmentation, and its probabilities take
the place of a share of the label. The cross-entropy to such labels is that of distillation at
temperature 1, so the training step stays as it is, on every backend.

Sources: G. Hinton et al., "Distilling the Knowledge in a Neural Network", arXiv:1503.02531;
L. Beyer et al., "Knowledge distillation: A good teacher is patient and consistent",
arXiv:2106.05237 (both see the same crops and mixtures).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from vitsd.evaluation.predict import open_model
from vitsd.hub.pretrained import locate_any
from vitsd_runtime.classifier import softmax
from vitsd_runtime.errors import UsageError
from vitsd_runtime.formats import require_spec
from vitsd_runtime.system.text import printable
from vitsd_runtime.types import Float32Array, PathLike, UInt8Array

Answers = Callable[[UInt8Array], Float32Array]
"""From images ``(n, height, width, channels)`` to logits ``(n, classes)``."""


class Teacher:
    """A trained model of the same classes.

    Args:
        answers: of the model.
        share: of the label, in (0, 1].
        sha256: of the model's file, where it is known.
    """

    def __init__(self, answers: Answers, share: float, sha256: str | None = None) -> None:
        self._answers, self._share, self.sha256 = answers, share, sha256

    @classmethod
    def load(
        cls,
        name_or_path: PathLike,
        share: float,
        batch_size: int,
        class_names: Sequence[str],
        input_size: Sequence[int],
    ) -> Teacher:
        """One that knows these classes from images of this size.

        Args:
            name_or_path: as for :func:`vitsd.from_pretrained`, or an exported file: an int8
                ``.tflite`` file answers soonest on a CPU.
            share: of the label, in (0, 1].
            batch_size: images that it is asked for at once.
            class_names: what it must know.
            input_size: height, width and channels.

        Raises:
            UsageError: nothing is found under that name, or it does not fit.
            VitsdError: the file is damaged, can't be downloaded, or its engine is missing.
        """
        path = locate_any(name_or_path)
        name, spec = printable(name_or_path), require_spec(path)
        if spec.class_names != tuple(class_names):
            raise UsageError(
                f"`teacher` {name} has other classes than the data; train one on these data."
            )
        if spec.input_size != tuple(input_size):
            theirs, ours = ("x".join(map(str, size)) for size in (spec.input_size, input_size))
            raise UsageError(f"`teacher` {name} takes images of {theirs}; these are {ours}.")
        sha256 = spec.integrity.sha256 if spec.integrity else None
        return cls(open_model(path, batch_size), share, sha256)

    def labels(self, images: UInt8Array, labels: Float32Array) -> Float32Array:
        """Labels in which its answers have their share.

        Args:
            images: ``(n, height, width, channels)``.
            labels: ``(n, classes)``, rows that sum up to 1.

        Returns:
            Labels of the same shape, whose rows sum up to 1.
        """
        answers = softmax(self._answers(images))
        taught: Float32Array = labels + self._share * (answers - labels)
        return taught
