"""What a training step sends between devices, against the least that its scheme needs.

    python benchmarks/collectives.py [--config configs/vit_b16.py] [--output FILE]

Compiles the step for 1, 2, 4 and 8 devices of this machine (of a CPU as many are simulated), with
replicated parameters and with FSDP, and reads its collectives from the compiled program; nothing is
run. The least: data parallelism reduces every gradient once; FSDP besides gathers every parameter
that it has split once, and needs of the reduced gradients a part only. See docs/scaling.md.
"""

import argparse
import importlib.metadata
import json
import os
from pathlib import Path

os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)

import jax  # noqa: E402

from cv_jax import config as configs  # noqa: E402
from cv_jax.devices.collectives import collectives  # noqa: E402
from cv_jax.run import provenance  # noqa: E402
from cv_jax.training import dry_run, experiment


def measure(reference: str, overrides: dict[str, str], devices: int, params: str) -> dict:
    """One line of the table: bytes of what is reduced and gathered, and the least of both."""
    layout = {"mesh.devices": str(devices), "mesh.params": params}
    parts = experiment.build(configs.load(reference, {**overrides, **layout}))
    state, batch = parts.abstract_state(), next(parts.train_batches(0))
    compiled = parts.train_step().lower(state, batch).compile()
    found = collectives(compiled.as_text())
    leaves = jax.tree.leaves(state.params)
    split = [leaf for leaf in leaves if any(leaf.sharding.spec)]
    total = {}
    for collective in found:
        count, payload, sent = total.get(collective.kind, (0, 0, 0.0))
        total[collective.kind] = (
            count + collective.runs,
            payload + collective.runs * collective.payload,
            sent + collective.sent,
        )
    memory = compiled.memory_analysis()
    return {
        "devices": devices,
        "params": params,
        "collectives": {
            kind: {"count": count, "payload_bytes": payload, "sent_bytes_per_device": round(sent)}
            for kind, (count, payload, sent) in total.items()
        },
        "least": {
            "all-reduce": 0 if devices == 1 else sum(4 * leaf.size for leaf in leaves),
            "all-gather": sum(4 * leaf.size for leaf in split),
        },
        "parameter_bytes_per_device": dry_run.bytes_per_device(state.params),
        "state_bytes_per_device": dry_run.bytes_per_device(state),
        "temporary_bytes_per_device": memory.temp_size_in_bytes,
    }


def main():
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="configs/vit_b16.py")
    parser.add_argument("--image_size", type=int, default=224)
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--devices", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--output", type=Path, help="also write the result here, as JSON")
    flags = parser.parse_args()
    size = flags.image_size
    overrides = {
        "image_size": str(size),
        "augment": f"resize({size})",
        "eval_preprocess": f"resize({size})",
        "batch_size": str(flags.batch_size),
        "data.cache": "none",
    }
    rows = []
    for params in ("replicated", "fsdp"):
        for devices in flags.devices:
            row = measure(flags.config, overrides, devices, params)
            rows.append(row)
            said = ", ".join(
                f"{found['count']} {kind} of {found['payload_bytes']:,} bytes"
                for kind, found in row["collectives"].items()
            )
            least = ", ".join(f"{kind} {size:,}" for kind, size in row["least"].items())
            print(f"{params:10} {devices} devices: {said or 'nothing'}; the least: {least}")
    if flags.output:
        result = {
            "command": f"python benchmarks/collectives.py --config {flags.config}",
            "commit": provenance.commit(),
            "platform": jax.devices()[0].platform,
            "versions": {name: importlib.metadata.version(name) for name in ("jax", "jaxlib")},
            "image_size": size,
            "batch_size": flags.batch_size,
            "rows": rows,
        }
        flags.output.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
