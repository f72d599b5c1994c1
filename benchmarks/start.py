"""Seconds from the start of a process to the end of its first step, with a cold and a warm cache.

    python benchmarks/start.py [--configs configs/vit_ti16.py …] [--rounds 5] [--before COMMIT]

Each round starts every config twice: with an empty cache of compiled programs, and with the cache
that this start filled. The fastest start of each kind counts, because other load on the machine can
only slow a start down. Processor seconds are those of the whole process, with the end of the run.
With `--before` the code of an earlier commit takes turns, from a worktree of its own.
"""

import argparse
import contextlib
import importlib.metadata
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from cv_jax.run import json_files, provenance

ROOT = Path(__file__).resolve().parent.parent


def start(config: str, cache: str, root: Path = ROOT) -> dict[str, float]:
    """Train one step with the code in a folder; return the first line of timing.jsonl.

    `processor_seconds` is added to the line.
    """
    with tempfile.TemporaryDirectory() as folder:
        flags = ["total_steps=1", "schedule.warmup_epochs=none", f"compile_cache={cache}"]
        command = [sys.executable, "launch.py", "--config", config, "--workdir", f"{folder}/run"]
        command += [f"--config.{flag}" for flag in flags]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        variables = {**os.environ, "PYTHONPATH": str(root)}
        subprocess.run(command, cwd=root, check=True, capture_output=True, env=variables)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        line = json_files.read_lines(Path(folder) / "run" / "timing.jsonl")[0]
        return {**line, "processor_seconds": round(seconds, 3)}


@contextlib.contextmanager
def checked_out(commit: str | None) -> Iterator[dict[str, Path]]:
    """Yield the name of the entry in the result → the folder of the code."""
    if commit is None:
        yield {"configs": ROOT}
        return
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "code"
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "--detach", str(tree), commit], check=True)
        try:
            yield {"configs": ROOT, "before": tree}
        finally:
            subprocess.run([*git, "remove", "--force", str(tree)], check=True)


def summary(found: dict[str, list[dict]]) -> dict:
    """Return the fastest starts, their ratio, and all starts."""
    cold, warm = (min(x["first_step_seconds"] for x in found[k]) for k in ("cold", "warm"))
    work = {
        f"{k}_processor_seconds": min(x["processor_seconds"] for x in found[k])
        for k in ("cold", "warm")
    }
    fastest = {"cold_seconds": cold, "warm_seconds": warm, "ratio": round(cold / warm, 3)}
    return {**fastest, **work, **found}


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = [f"configs/{name}.py" for name in ("vit_ti16", "resnet20_cifar", "lenet5")]
    parser.add_argument("--configs", nargs="+", default=default)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--before", metavar="COMMIT", help="also measure this commit")
    parser.add_argument("--output", type=Path, help="write the result to this JSON file")
    flags = parser.parse_args()
    result = {
        "command": " ".join(["python", "benchmarks/start.py", *sys.argv[1:]]),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "jax": importlib.metadata.version("jax"),
        "python": sys.version.split()[0],
        "commit": provenance.commit(),
    }
    with checked_out(flags.before) as trees:
        starts = {
            (tree, config): {"cold": [], "warm": []} for config in flags.configs for tree in trees
        }
        for round_ in range(flags.rounds):
            for (tree, config), found in starts.items():
                with tempfile.TemporaryDirectory() as cache:
                    for kind in ("cold", "warm"):
                        found[kind].append(start(config, cache, trees[tree]))
                        seconds = found[kind][-1]["first_step_seconds"]
                        title = f"{config} {'before ' if tree == 'before' else ''}{kind}"
                        print(f"round {round_ + 1}: {title}: {seconds:.1f} s", flush=True)
    for (tree, config), found in starts.items():
        result.setdefault(tree, {})[config] = row = summary(found)
        title = f"{config} before" if tree == "before" else config
        print(
            f"{title}: {row['cold_seconds']:.1f} s cold, {row['warm_seconds']:.1f} s warm, "
            f"{row['warm_processor_seconds']:.1f} s of processor time warm"
        )
    if flags.output:
        json_files.write_json(flags.output, result)
    else:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
