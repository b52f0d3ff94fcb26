"""What a worker does with a chunk, also where others before it ended in the middle."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypedDict

from vitsd_runtime.batch.answers import Options, Row, answer_rows, error_row
from vitsd_runtime.batch.chunks import Chunk
from vitsd_runtime.batch.results import Results
from vitsd_runtime.classifier import Classifier
from vitsd_runtime.errors import VitsdError
from vitsd_runtime.images.reading import DEADLY, MAX_TRIES

TRIES = 100
"""Of a chunk, after which the engine gives up."""


class Done(TypedDict):
    """What a worker tells of a chunk."""

    images: int
    errors: int
    failure: str
    """Why there is no use in going on; "": there is none."""


@dataclass(frozen=True)
class Work:
    """Answers chunks and writes their parts; picklable."""

    classifier: Classifier
    options: Options
    results: Results

    def __call__(self, text: str) -> Done:
        """Do the chunk of :meth:`Chunk.to_json`, unless its part is there already."""
        chunk = Chunk.from_json(text)
        part = chunk.part()
        try:
            done = self.results.counts(part) or self.results.write(part, self._rows(chunk, part))
        except VitsdError as error:
            return Done(images=0, errors=0, failure=str(error))
        return Done(images=done[0], errors=done[1], failure="")

    def _rows(self, chunk: Chunk, part: str) -> Iterator[Row]:
        before = self.results.tries(part)
        if before is not None:
            return self._one_by_one(chunk, part, before)
        self.results.note_try(part, {"image": -1, "tries": 0, "deadly": []})
        return answer_rows(self.classifier, chunk.images(), self.options)

    def _one_by_one(self, chunk: Chunk, part: str, before: dict[str, Any]) -> Iterator[Row]:
        """Find the image that ends the worker, if it is one; pass over those that are known."""
        deadly = set(before["deadly"])
        for i, (name, image) in enumerate(chunk.images()):
            tries = before["tries"] if i == before["image"] else 0
            if i in deadly or tries >= MAX_TRIES - 1:  # and the first one of the chunk
                deadly.add(i)
                yield error_row(name, DEADLY, self.classifier)
                continue
            note = {"image": i, "tries": tries + 1, "deadly": sorted(deadly)}
            self.results.note_try(part, note)
            yield from answer_rows(self.classifier, [(name, image)], self.options)
