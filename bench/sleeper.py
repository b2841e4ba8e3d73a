"""How long the machine lets a waking thread wait: the noise under every figure that is a time.

A busy neighbour shows here and in the figures alike; where this is as large as a figure, the figure says nothing.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

NAP_S = 0.005


@contextlib.contextmanager
def watching() -> Iterator[list[float]]:
    """Sleep again and again in a thread of its own; the list grows by the seconds that each sleep was too long."""
    late: list[float] = []
    stop = threading.Event()

    def nap() -> None:
        while not stop.is_set():
            began = time.monotonic()
            time.sleep(NAP_S)
            late.append(time.monotonic() - began - NAP_S)

    thread = threading.Thread(target=nap, name="sleeper", daemon=True)
    thread.start()
    try:
        yield late
    finally:
        stop.set()
        thread.join(timeout=1)
