"""The plan for a GPU that is lent for minutes: the most important measurements first.

    python -m benchmarks.gpu --minutes 8 [STAGE …] [--cases CASE …] [--out FILE.jsonl]

Every result is a line of the file as soon as it is there. Each measurement is a process with a
limit, alone on the device; the next one imports and traces meanwhile. Two kinds of work run beside
them on the processor, where enough cores are free: the CPU's own runs of the checks, on half of the
cores, and the compilation of the peer's next network, which makes one step on the device. `beside`
names them in every line. Without a GPU, `--device cpu --tiny` runs the same plan at a small size.

Stages, in the order of the plan:

    environment  versions, devices, TFLOP/s of a matrix product
    step         training steps, `cv_jax` and its peer (benchmarks/step.py), with times of kernels
    repeat       a run of LeNet-5 twice, with and without flags for deterministic operations
    attention    implementations of attention over the number of tokens
    families     20 steps of every family, on the GPU and on the CPU
    restart      runs that `kill -9` interrupts
    sweep        32 trials in one program
    loader       images per second over threads and processes, cores for 3,000 of them
"""

import argparse
import os
import statistics
import sys
import tempfile
from pathlib import Path

from benchmarks import step, turns
from benchmarks.step_cases import CASES, TINY

STAGES = (
    *("environment", "step", "repeat", "attention"),
    *("families", "restart", "sweep", "loader"),
)
# Measured before the checks, and after them.
FIRST = ("vit_b16", "mae_vit_l16", "swin_t")
THEN = ("resnet50", "vit_l16", "vit_ti16")
FLAGS = (
    "",
    "--xla_gpu_deterministic_ops=true",
    "--xla_gpu_exclude_nondeterministic_ops=true",
)
MANY_CORES = 8  # from here on, work of the processor runs beside measurements of a GPU


def module(name: str, *words: str) -> tuple[str, ...]:
    """Return the words that run a module of this folder."""
    return sys.executable, "-m", f"benchmarks.{name}", *words


def checks(device: str, variables: dict, tiny: bool) -> dict[str, list[turns.Job]]:
    """Return stage → jobs of the stages that compare runs, and of attention, loader and sweep."""
    few = ("--steps", "3") if tiny else ()
    flags = FLAGS if device == "gpu" else FLAGS[:1]
    cores = sorted(os.sched_getaffinity(0))
    names = ("lenet5",) if tiny else ()
    # The runs on the CPU take the upper half of the cores, the others have the lower half.
    upper = tuple(cores[len(cores) // 2 :])
    shared = (*names, "--steps", "3" if tiny else "20")
    on_device = ("--at_a_time", str(max(1, min(4, len(cores) // 4))))
    tokens = ("--tokens", "49", "--examples", "2") if tiny else ()
    counts = ("--counts", "1", "--images", "64", "--seconds", "0.2") if tiny else ()
    trials = ("--trials", "2", "--steps", "40") if tiny else ("--steps", "120")
    cpu = {**variables, "JAX_PLATFORMS": "cpu"}
    return {
        "repeat": [
            turns.Job(
                f"repeat lenet5 {flag}".strip(),
                module("run_checks", "repeat", "lenet5", f"--xla_flags={flag}", *few),
                75,
                {"stage": "repeat", "xla_flags": flag},
                variables,
            )
            for flag in flags
        ],
        "attention": [
            turns.Job(
                "attention",
                module("attention", *tokens, "--dtype", "float32" if tiny else "bfloat16"),
                100,
                {"stage": "attention"},
                variables,
            )
        ],
        "families": [
            turns.Job(
                "families",
                module("run_checks", "families", *shared, *on_device),
                150,
                {"stage": "families", "where": device},
                variables,
            )
        ],
        "families on the CPU": [
            turns.Job(
                "families on the CPU",
                module("run_checks", "families", *shared),
                400,
                {"stage": "families", "where": "cpu"},
                cpu,
                upper,
            )
        ],
        "restart": [
            turns.Job(
                f"restart {config}",
                module("run_checks", "restart", config, "--steps", "20" if tiny else "200"),
                90,
                {"stage": "restart"},
                variables,
            )
            for config in (("lenet5",) if tiny else ("vit_ti16", "lenet5"))
        ],
        "loader": [
            turns.Job("loader", module("loader_scaling", *counts), 240, {"stage": "loader"}, cpu)
        ],
        "sweep": [
            turns.Job(
                "sweep", module("run_checks", "sweep", *trials), 100, {"stage": "sweep"}, variables
            )
        ],
    }


class Peers:
    """Prepares one measurement of a peer at a time, beside those of `cv_jax`."""

    def __init__(self, schedule: turns.Turns, many_cores: bool):
        self._schedule, self._many_cores = schedule, many_cores
        self._waiting, self._prepared = [], None

    def add(self, jobs: list[turns.Job]) -> None:
        """Measure these jobs later, in this order."""
        self._waiting += jobs

    def prepare(self) -> None:
        """Start the next job if cores are free and the last one has the device or has ended.

        It takes its turn on the device when it has compiled.
        """
        busy = self._prepared is not None and not self._prepared.holds.is_set()
        if self._many_cores and self._waiting and not busy:
            self._prepared = self._schedule.start(self._waiting.pop(0), waits=True)

    def take_all(self) -> None:
        """Take the remaining jobs one after the other."""
        for job in self._waiting:
            self._schedule.take(job)
        self._waiting = []


def run(schedule: turns.Turns, flags: argparse.Namespace, scratch: Path) -> None:
    """Run the plan; results go to the schedule's `emit`."""
    variables = step.variables_of(flags.device, scratch)
    found = checks(flags.device, variables, flags.tiny)
    many_cores = flags.device == "gpu" and len(os.sched_getaffinity(0)) >= MANY_CORES
    peers = Peers(schedule, many_cores)
    known = TINY if flags.tiny else CASES
    options = {"peer_python": flags.peer_python, "tiny": flags.tiny}

    def take(jobs):
        for job in jobs:
            peers.prepare()
            schedule.take(job)

    def stage(*names):
        for name in names:
            if name in flags.stages:
                take(found[name])

    def steps(names):
        names = [name for name in names if name in known and name in (flags.cases or known)]
        if "step" not in flags.stages:
            return
        for name in names:
            ours, theirs = (
                step.jobs(name, flags.device, scratch, sides=sides, profile=profile, **options)
                for sides, profile in ((("cv_jax",), not flags.tiny), (("peer compiled",), False))
            )
            peers.add(theirs)
            take(ours)
            if not many_cores:
                peers.take_all()

    if "environment" in flags.stages:
        schedule.take(step.environment(flags.device, scratch, flags.tiny))
    if "families" in flags.stages and flags.device == "gpu" and many_cores:
        schedule.start(found["families on the CPU"][0])
    steps(FIRST)
    stage("repeat", "attention")
    steps(THEN)
    peers.take_all()
    stage("families")
    if "families" in flags.stages and flags.device == "gpu" and not many_cores:
        take(found["families on the CPU"])
    stage("restart", "sweep")
    steps([name for name in flags.cases or [] if name not in FIRST + THEN])
    peers.take_all()
    stage("loader")  # last: nothing may run beside it


def agreement(rows: list[dict]) -> dict[str, float]:
    """Return config → the largest relative difference of losses between the GPU and the CPU."""
    losses: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        if row.get("stage") == "families" and row.get("losses"):
            losses.setdefault(row["config"], {})[row["where"]] = row["losses"]
    return {
        config: max(abs(a - b) / abs(b) for a, b in zip(both["gpu"], both["cpu"], strict=False))
        for config, both in losses.items()
        if {"gpu", "cpu"} <= both.keys()
    }


def short(row: dict) -> str:
    """Return a row in one line."""
    if "images_per_second" in row:
        speed = f"{statistics.median(row['images_per_second']):,.1f} images/s"
        share = f", {row['utilisation']:.1%} of the peak" if "utilisation" in row else ""
        return f"{speed}{share}, {row['peak_bytes'] / 1e9:.1f} GB"
    kept = {name: value for name, value in row.items() if name not in ("name", "runs", "losses")}
    return str(kept)[:300]


def main():
    """Run the plan and print every result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stages", nargs="*", metavar="STAGE", help="default: all")
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--cases", nargs="+", metavar="CASE", help="cases of the stage step")
    parser.add_argument("--device", choices=("cpu", "gpu"), default=step.found_device())
    parser.add_argument("--peer-python", default=sys.executable, help="interpreter of the peers")
    parser.add_argument("--tiny", action="store_true", help="small sizes, for tests")
    parser.add_argument("--out", type=Path, default=Path("gpu.jsonl"), help="lines are added")
    flags = parser.parse_args()
    known = TINY if flags.tiny else CASES
    for name, allowed in [
        *((s, STAGES) for s in flags.stages),
        *((c, known) for c in flags.cases or []),
    ]:
        if name not in allowed:
            parser.error(f"{name!r} is not one of {', '.join(allowed)}")
    flags.stages = flags.stages or STAGES

    from cv_jax.run import json_files

    rows = []

    def emit(row):
        rows.append(row)
        json_files.append_line(flags.out, row)
        print(f"{row.get('at_s', '')} s: {row['name']}: {short(row)}", flush=True)

    with tempfile.TemporaryDirectory() as scratch:
        schedule = turns.Turns(emit, flags.minutes, overlap=flags.device == "gpu")
        run(schedule, flags, Path(scratch))
        schedule.finish()
    print(step.table(step.summary(rows)))
    for config, difference in agreement(rows).items():
        print(f"{config}: losses of GPU and CPU differ by {difference:.1e}")
    return 0 if any("error" not in row for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
