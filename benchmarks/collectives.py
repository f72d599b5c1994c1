"""Bytes that a training step sends between devices, and the minimum for its kind of parallelism.

    python benchmarks/collectives.py [--config configs/vit_b16.py] [--output FILE]

Compiles the step for 1, 2, 4 and 8 devices of this machine (simulated on a CPU), with replicated
parameters and with FSDP, and reads the collectives from the compiled program; nothing is executed.
Minimum: data parallelism reduces every gradient once; FSDP also gathers every sharded parameter
once, and needs only a shard of the reduced gradients. See docs/several_hosts.md.
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
    """Return one row of the table: bytes of every kind of collective, and their minimum."""
    layout = {"mesh.devices": str(devices), "mesh.params": params}
    parts = experiment.build(configs.load(reference, {**overrides, **layout}))
    state, batch = parts.abstract_state, next(parts.train_batches(0))
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
    """Compile, count and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="configs/vit_b16.py")
    parser.add_argument("--image_size", type=int, default=224)
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--devices", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--output", type=Path, help="write the result to this JSON file")
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
            counts = ", ".join(
                f"{found['count']} {kind} of {found['payload_bytes']:,} bytes"
                for kind, found in row["collectives"].items()
            )
            least = ", ".join(f"{kind} {size:,}" for kind, size in row["least"].items())
            print(f"{params:10} {devices} devices: {counts or 'nothing'}; minimum: {least}")
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
