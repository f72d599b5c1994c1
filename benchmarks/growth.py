"""How time and memory grow: measured exponents beside the expected ones.

    python -m benchmarks.growth [WHAT …] [--out FILE.json] [--million] [--tiny]

A quantity, such as the depth of a network or the number of trials of a sweep, takes a few sizes in
a geometric series. The shortest of several repetitions counts, because other work of the computer
only adds time. The exponent is the slope of a least-squares line through the logarithms of the
upper sizes, where constant costs matter less. It is compared with the expected one; "WORSE" stands
beside an exponent that is larger by more than the margin, 0.15. Time of the models is wall time of
a training step, memory is the temporary memory that XLA's analysis of the compiled step states.
Time of host work is processor time, in which other work counts less; wall time is recorded too.

Models: depth, width, vit_image_size, swin_image_size, resnet_image_size, patch_size, batch,
classes. Host work: folder, planning, listing, resuming, reporting. Planning, resuming and reporting
a sweep must also stay below one second for every 1,000 points.
"""

import argparse
import dataclasses
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from benchmarks import growth_hosts, growth_models
from cv_jax.devices import start

MARGIN = 0.15  # above it a measured exponent is worse than the expected one
REPETITIONS = 5


@dataclasses.dataclass(frozen=True)
class Quantity:
    """A quantity that grows.

    Attributes:
      sizes: ascending.
      tiny: sizes for tests.
      upper: number of the largest sizes through which the line goes.
      expected: measure → largest exponent that is expected.
      measure: `(sizes, repetitions, scratch folder)` → a row of measures for each size, in order.
      limit: seconds that a unit may take; `None` without a limit.
    """

    sizes: tuple[int, ...]
    tiny: tuple[int, ...]
    upper: int
    expected: dict[str, float]
    measure: Callable[[tuple[int, ...], int, Path], Iterator[dict[str, float]]]
    limit: float | None = None


def _model(name: str, sizes, tiny, seconds: float, temporary_bytes: float) -> Quantity:
    expected = {"seconds": seconds, "temporary_bytes": temporary_bytes}
    return Quantity(sizes, tiny, 3, expected, growth_models.steps_of(name))


def _host(measure, sizes, tiny, limit=None) -> Quantity:
    expected = {"processor_seconds": 1.0, "peak_bytes": 1.0}
    return Quantity(sizes, tiny, 3, expected, measure, limit)


_TRIALS = ((10, 100, 1000, 10000), (10, 20, 40))
_A_THOUSAND = 1e-3  # one second for every 1,000

# A step of a Transformer costs tokens · width² + tokens² · width, in memory tokens · width +
# tokens² · heads + width² for the gradient; tokens are (image size / patch size)². The largest
# numbers of classes and image sizes exceed the caches of a CPU, whose edge would look like growth.
QUANTITIES: dict[str, Quantity] = {
    "depth": _model("depth", (2, 4, 8, 16), (1, 2), 1.0, 1.0),
    "width": _model("width", (96, 192, 384, 768), (32, 64), 2.0, 2.0),
    "vit_image_size": _model("vit_image_size", (128, 256, 384, 512), (32, 64), 4.0, 4.0),
    "swin_image_size": _model("swin_image_size", (112, 224, 448), (28, 56), 2.0, 2.0),
    "resnet_image_size": _model("resnet_image_size", (64, 128, 256, 512), (32, 64), 2.0, 2.0),
    "patch_size": _model("patch_size", (4, 8, 16, 32), (2, 4), 4.0, 4.0),
    "batch": _model("batch", (8, 16, 32, 64), (2, 4), 1.0, 1.0),
    "classes": _model("classes", (2000, 4000, 8000, 16000), (10, 20), 1.0, 1.0),
    "folder": _host(growth_hosts.folder, (1000, 10000, 100000), (20, 40)),
    "planning": _host(growth_hosts.planning, *_TRIALS, _A_THOUSAND),
    "listing": _host(growth_hosts.listing, *_TRIALS, _A_THOUSAND),
    "resuming": _host(growth_hosts.resuming, *_TRIALS, _A_THOUSAND),
    "reporting": _host(growth_hosts.reporting, *_TRIALS, _A_THOUSAND),
}


def exponent(sizes: tuple[int, ...], values: list[float]) -> float:
    """Return the slope of the least-squares line through the logarithms."""
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def judged(quantity: Quantity, sizes: tuple[int, ...], rows: list[dict[str, float]]) -> dict:
    """Return the exponents of a quantity, and what is worse than expected.

    Returns:
      `exponents`: measure → `{"measured", "expected", "worse"}`; with a limit also
      `seconds_of_a_thousand`, from the largest size, and `too_slow`.
    """
    found = {}
    for name, expected in quantity.expected.items():
        values = [row[name] for row in rows][-quantity.upper :]
        if min(values) > 0:
            slope = exponent(sizes[-quantity.upper :], values)
            worse = slope > expected + MARGIN
            found[name] = {"measured": round(slope, 3), "expected": expected, "worse": worse}
    judgement = {"exponents": found}
    if quantity.limit is not None:
        each = rows[-1]["processor_seconds"] / sizes[-1]
        judgement["seconds_of_a_thousand"] = round(1000 * each, 3)
        judgement["too_slow"] = each > quantity.limit
    return judgement


def line(name: str, entry: dict) -> str:
    """Return the result of a quantity in one line."""
    parts = [
        f"{measure.replace('_', ' ')} {found['measured']:.2f} (expected {found['expected']:g})"
        + (" WORSE" if found["worse"] else "")
        for measure, found in entry["exponents"].items()
    ]
    if "seconds_of_a_thousand" in entry:
        slow = " TOO SLOW" if entry["too_slow"] else ""
        parts.append(f"{entry['seconds_of_a_thousand']:.2f} s for 1,000{slow}")
    return f"{name}: {'; '.join(parts)}"


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", nargs="*", metavar="WHAT", help=f"of {', '.join(QUANTITIES)}")
    parser.add_argument("--repetitions", type=int, default=REPETITIONS)
    parser.add_argument("--million", action="store_true", help="a folder of a million files, too")
    parser.add_argument("--tiny", action="store_true", help="small sizes, for tests")
    parser.add_argument("--out", type=Path, help="add the results to this JSON file")
    flags = parser.parse_args()
    for name in flags.what:
        if name not in QUANTITIES:
            parser.error(f"{name!r} is not one of {', '.join(QUANTITIES)}")
    start.load_jax()

    from cv_jax.run import json_files, provenance

    conditions = provenance.environment()
    shared = {"command": " ".join(["python -m benchmarks.growth", *sys.argv[1:]])}
    shared |= {"commit": conditions["commit"], "versions": conditions["versions"]}
    shared |= {"cores": growth_hosts.cores(), "margin": MARGIN}
    result = {"quantities": {}}
    if flags.out and flags.out.exists():
        result = json_files.read_json(flags.out, dict)
    for name in flags.what or QUANTITIES:
        quantity = QUANTITIES[name]
        sizes = quantity.tiny if flags.tiny else quantity.sizes
        sizes += (10**6,) if name == "folder" and flags.million else ()
        rows = []
        with tempfile.TemporaryDirectory() as scratch:
            measured = quantity.measure(sizes, flags.repetitions, Path(scratch))
            for size, row in zip(sizes, measured, strict=True):
                rows.append({"size": size, **row})
                print(f"  {name} {size}: {row}", flush=True)
        entry = {**shared, **judged(quantity, sizes, rows), "rows": rows}
        print(line(name, entry), flush=True)
        result["quantities"][name] = entry
        if flags.out:
            json_files.write_json(flags.out, result)


if __name__ == "__main__":
    main()
