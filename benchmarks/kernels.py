"""Milliseconds of a computation by kind of kernel, from a profile."""

import collections
import re
import tempfile
from collections.abc import Callable
from pathlib import Path

import jax
from jax.profiler import ProfileData


def milliseconds(run: Callable[[], None], steps: int, largest: int = 40) -> dict[str, float]:
    """Profile a call, and return the time of its kernels.

    Args:
      run: computes `steps` equal steps and waits for them.
      steps: number of steps; times are divided by it.
      largest: number of kinds to keep.

    Returns:
      Kind of kernel → milliseconds per step, the largest first. A kind is the name of kernels
      without the number that XLA adds. On a CPU kernels are the operations of XLA's threads, and
      the times of several threads add up.
    """
    with tempfile.TemporaryDirectory() as folder:
        jax.profiler.start_trace(folder)
        run()
        jax.profiler.stop_trace()
        total = collections.Counter()
        for file in Path(folder).rglob("*.xplane.pb"):
            for kind, nanoseconds in _kernels(ProfileData.from_file(str(file))):
                total[kind] += nanoseconds
    return {kind: round(ns / 1e6 / steps, 4) for kind, ns in total.most_common(largest)}


def _kernels(profile: ProfileData):
    """Yield kind and nanoseconds of every kernel."""
    planes = list(profile.planes)
    devices = [plane for plane in planes if plane.name.startswith("/device:GPU")]
    for plane in devices or [plane for plane in planes if plane.name == "/host:CPU"]:
        for line in plane.lines:
            # The other lines of a GPU are sums over the kernels of its streams.
            if not line.name.startswith("Stream" if devices else "tf_XLA"):
                continue
            for event in line.events:
                # Threads of a CPU also have the marks of their pool: "ThreadpoolListener::Record".
                if devices or re.fullmatch(r"[\w.-]+", event.name):
                    yield kind_of(event.name), event.duration_ns


def kind_of(name: str) -> str:
    """Return the name of a kernel without numbers at its end and arguments of templates."""
    name = re.sub(r"^void ", "", name)
    name = re.split(r"[<(]", name)[0]
    return re.sub(r"([._]\d+)+(_kernel)?$", "", name)[:90]
