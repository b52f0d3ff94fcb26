"""Work of several threads, whose results keep their order."""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")
Result = TypeVar("Result")

_AHEAD = 2
"""Items in work or done for each worker: one that takes long must not leave the others idle."""


def map_in_order(
    function: Callable[[T], Result], items: Iterable[T], workers: int
) -> Iterator[Result]:
    """``map(function, items)``, in threads; for work that native code does, outside of the lock.

    Items are drawn as results are taken: never more than ``2 * workers`` are under way.

    Args:
        function: called in any of the threads. What it raises is raised where its result would be,
            and ends the work.
        items: drawn in the caller's thread.
        workers: threads; with 1, the caller's own.
    """
    if workers == 1:
        yield from map(function, items)
        return
    from concurrent.futures import Future, ThreadPoolExecutor  # 5 ms of import

    pool = ThreadPoolExecutor(workers, "worker")
    waiting: collections.deque[Future[Result]] = collections.deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) == _AHEAD * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
