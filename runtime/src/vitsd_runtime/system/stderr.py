"""Hold back what native libraries write to stderr."""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
from collections.abc import Iterator

_lock = threading.RLock()


@contextlib.contextmanager
def quiet_stderr() -> Iterator[None]:
    """Hold back what native libraries write to stderr; show it if an error leaves the block.

    TensorFlow logs to the file descriptor while it is imported, before any of its settings takes
    effect. The descriptor belongs to the process, so threads take turns.
    """
    with _lock, tempfile.TemporaryFile() as held:
        try:
            saved = os.dup(2)
        except OSError:  # there is no stderr
            yield
            return
        os.dup2(held.fileno(), 2)
        try:
            yield
        except Exception:
            held.seek(0)
            os.write(saved, held.read()[-20_000:])
            raise
        finally:
            os.dup2(saved, 2)
            os.close(saved)
