"""Transfer batches to the devices before they are used."""

import collections
import contextlib
from collections.abc import Callable, Generator, Iterator
from typing import Any


def on_devices(
    batches: Generator | Iterator, place: Callable[[Any], Any], ahead: int = 2
) -> Iterator[Any]:
    """Batches on the devices, transferred `ahead` batches before the one in use.

    Args:
      batches: batches on the host; closed at the end.
      place: `host batch → device batch`; returns before the transfer has ended.
      ahead: number of batches in flight.
    """
    queue: collections.deque[Any] = collections.deque()
    with contextlib.closing(batches):
        for batch in batches:
            queue.append(place(batch))
            if len(queue) > ahead:
                yield queue.popleft()
        yield from queue
