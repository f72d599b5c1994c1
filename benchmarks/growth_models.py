"""Training steps of small networks over one axis; a part of `benchmarks.growth`.

Each network is small in all axes but the one that grows, which then decides the time of a step.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.step_cases import Case

SECONDS = 0.3  # of a repetition; at least one step


def _vit(**fields) -> dict:
    values = {"width": 64, "depth": 2, "num_heads": 2, **fields}
    return {f"model.{name}": value for name, value in values.items()}


def _case(model: str, size: int, batch: int, classes: int = 10, fields: dict | None = None) -> Case:
    return Case(model, batch, batch, ("", ""), size, classes, fields or {})


# Axis → size → network.
CASES: dict[str, Callable[[int], Case]] = {
    "depth": lambda n: _case("vit_ti16", 64, 16, fields=_vit(depth=n, width=192, num_heads=3)),
    "width": lambda n: _case("vit_ti16", 64, 16, fields=_vit(width=n, num_heads=n // 32)),
    "vit_image_size": lambda n: _case("vit_ti8", n, 1, fields=_vit()),
    "swin_image_size": lambda n: _case("swin_t", n, 2, fields={"model.depths": (2, 2, 2, 2)}),
    "resnet_image_size": lambda n: _case(
        "resnet18", n, 2, fields={"model.stage_sizes": (1, 1, 1, 1)}
    ),
    # The size is the number of patches in a row of 64 pixels.
    "patch_size": lambda n: _case("vit_ti16", 64, 4, fields=_vit(patch_size=64 // n)),
    "batch": lambda n: _case("vit_ti16", 64, n, fields=_vit(width=192, num_heads=3)),
    "classes": lambda n: _case("linear", 32, 16, classes=n),
}


def steps_of(axis: str) -> Callable[[tuple[int, ...], int, Path], Iterator[dict[str, float]]]:
    """Return the measure of an axis; see `growth.Quantity`.

    A row has the shortest `seconds` of a step, its `temporary_bytes` by XLA's analysis, and its
    model FLOPs.
    """

    def measure(sizes, repetitions, scratch):
        from benchmarks import step_product

        for size in sizes:
            case = CASES[axis](size)
            (scratch / str(size)).mkdir()
            dataset = step_product.noise_folder(scratch / str(size), case.size, case.classes)
            config = step_product.make_config(case, dataset, case.cpu_batch, "float32", {})
            row = step_product.measure(config, SECONDS, repetitions, profile=False)
            yield {
                "seconds": case.cpu_batch / max(row["images_per_second"]),
                "temporary_bytes": row["temporary_bytes"],
                "flops": case.cpu_batch * row["flops_per_image"],
            }

    return measure
