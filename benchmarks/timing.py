"""Repeated times of a training step; used by processes of both sides."""

import time
from collections.abc import Callable
from typing import Any


def speeds(
    step: Callable[[], Any],
    wait: Callable[[Any], Any],
    batch: int,
    seconds: float,
    repetitions: int,
) -> list[float]:
    """Return the examples per second of every repetition.

    Args:
      step: starts one step on `batch` examples; its result goes to `wait`.
      wait: returns when the step is finished.
      batch: examples in a step.
      seconds: about the time of a repetition, at least one step and at most 100.
      repetitions: how many.
    """
    began = time.perf_counter()
    wait(step())
    steps = max(1, min(100, round(seconds / (time.perf_counter() - began))))
    found = []
    for _ in range(repetitions):
        began = time.perf_counter()
        for _ in range(steps):
            result = step()
        wait(result)
        found.append(steps * batch / (time.perf_counter() - began))
    return found
