"""Trains, continues or scores one run, or a sweep of runs.

python launch.py --config configs/vit_b16.py
python launch.py --config configs/vit_b16.py:cifar10 --config.optim.learning_rate=3e-4
python launch.py --config configs/vit_b16.py --evaluate
python launch.py --config configs/mlp.py --sweep=width --seeds 3 --slots 2
"""

import argparse
import logging
import os
import shlex
import subprocess
import sys
import traceback
from pathlib import Path

from cv_jax import config as configs
from cv_jax.config.fields import FIELDS
from cv_jax.devices import clusters, processes
from cv_jax.errors import InputError, RunError, one_line
from cv_jax.sweep import slurm

# May differ between the processes of a run: where and how each loads the same data.
LOCAL = ("data.dir", "data.workers", "data.threads", "data.prefetch", "compile_cache")

FAILED, MISTAKE = 1, 2


def use_huge_pages() -> None:
    """Starts this program over, once, with huge pages for large allocations.

    Every step allocates its working memory anew, and on a CPU the kernel then spends much of the
    time on mapping it in pages of 4 KiB (`benchmarks/huge_pages.py` measures how much). glibc reads
    this setting only when a process starts; elsewhere than on Linux nothing happens.
    """
    if sys.platform == "linux" and "GLIBC_TUNABLES" not in os.environ:
        os.environ["GLIBC_TUNABLES"] = "glibc.malloc.hugetlb=1"
        os.execv(sys.executable, sys.orig_argv)


def parse_arguments(arguments: list[str]) -> tuple[argparse.Namespace, dict[str, str]]:
    """Flags, and the overrides `--config.NAME=VALUE` as name → text.

    Raises:
      InputError: an unknown flag, or one without its value.
    """
    overrides, rest = {}, []
    words = iter(arguments)
    for word in words:
        if not word.startswith("--config."):
            rest.append(word)
            continue
        name, equals, value = word.removeprefix("--config.").partition("=")
        if not equals:
            value = next(words, None)
            if value is None or value.startswith("--"):
                raise InputError(f"{word} needs a value: {word}=VALUE")
        overrides[name] = value

    class Parser(argparse.ArgumentParser):
        def error(self, message):
            raise InputError(f"{message}; see python launch.py --help")

    fields = "\n".join(
        f"  --config.{field.name:28} {field.meaning} (default {field.default!r}; {field.kind})"
        for field in FIELDS.values()
    )
    parser = Parser(
        prog="launch.py",
        description=__doc__,
        epilog=f"fields, beside those of the model under --config.model:\n{fields}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--config", required=True, metavar="FILE[:DATASET[,KEY=VALUE…]]")
    parser.add_argument(
        "--workdir", type=Path, help="run directory; made from the config if absent"
    )
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--evaluate", action="store_true", help="score the newest checkpoint")
    mode.add_argument(
        "--dry_run", action="store_true", help="shapes, parameters, multiply-adds and memory"
    )
    group = parser.add_argument_group("several processes, where no cluster tells them")
    group.add_argument("--coordinator", metavar="HOST:PORT", help="where process 0 listens")
    group.add_argument("--num_processes", type=int, help="how many there are")
    group.add_argument("--process_id", type=int, help="which one this is, from 0")
    sweep = parser.add_argument_group("sweeps (see cv_jax/sweep/points.py)")
    sweep.add_argument(
        "--sweep",
        nargs="?",
        const="",
        metavar="NAME,NAME",
        help="run every point of the config file's sweep(), or of the product of sweep_NAME()s",
    )
    sweep.add_argument("--seeds", type=int, metavar="N", help="each point with seeds 0 … N-1")
    sweep.add_argument(
        "--search",
        nargs="?",
        const="random",
        metavar="METHOD",
        help="draw points from the config file's search(): random, or optuna",
    )
    sweep.add_argument("--trials", type=int, metavar="N", help="points of a search; 20")
    sweep.add_argument("--sweep_dir", type=Path, help="folder of the trials; made from the config")
    sweep.add_argument(
        "--slots",
        type=int,
        metavar="N",
        help="trials at a time, over all devices; one for each GPU or TPU chip, and one on a CPU",
    )
    sweep.add_argument(
        "--sweep_executor",
        choices=("slots", "vmap", "slurm"),
        help="slots: each trial in a process of its own; vmap: trials that differ in numbers only, "
        "all in one program over all devices; slurm: each trial a job; default: slots",
    )
    cluster = parser.add_argument_group("jobs of Slurm, for --sweep_executor=slurm")
    for option in slurm.OPTIONS:
        kind = {"action": "append"} if option.kind is list else {"type": option.kind}
        cluster.add_argument(f"--slurm.{option.name}", help=option.meaning, metavar="…", **kind)
    flags = parser.parse_args(rest)
    _check_together(flags)
    return flags, overrides


def _check_together(flags: argparse.Namespace) -> None:
    """Raises an `InputError` for flags that make no sense with the others."""
    given = {
        name for name, value in vars(flags).items() if value is not None and value is not False
    }
    either = {"sweep", "search"}
    if either <= given:
        raise InputError("--sweep and --search do not go together")
    needs = {"seeds": {"sweep"}, "trials": {"search"}, "sweep_dir": either, "slots": either}
    needs["sweep_executor"] = {"sweep"}
    for name, others in needs.items():
        if name in given and not given & others:
            raise InputError(f"--{name} needs --{' or --'.join(sorted(others))}")
    if flags.sweep_executor in ("vmap", "slurm") and "slots" in given:
        raise InputError(f"--slots and --sweep_executor={flags.sweep_executor} do not go together")
    for name in sorted(given):
        if name.startswith("slurm.") and flags.sweep_executor != "slurm":
            raise InputError(f"--{name} needs --sweep_executor=slurm")
    for name in ("workdir", "evaluate"):
        if name in given and given & either:
            raise InputError(f"--{name} is for one run; a sweep takes --sweep_dir and --dry_run")


def check_xla_flags(flags: str) -> str:
    """The environment's compiler flags and these, tried in a process of its own.

    Raises:
      InputError: XLA does not know them (it would end the process without a word about the config).
    """
    both = f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip()
    trial = subprocess.run(
        [sys.executable, "-c", "import jax; jax.devices()"],
        capture_output=True,
        text=True,
        env={**os.environ, "XLA_FLAGS": both, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"},
    )
    if trial.returncode:
        reason = [line for line in trial.stderr.splitlines() if "flag" in line.lower()]
        raise InputError(f"config.xla_flags={flags!r}: {(reason or ['rejected by XLA'])[-1]}")
    return both


def main(arguments: list[str]) -> int:
    """The program; returns its exit code."""
    flags, overrides = parse_arguments(arguments)
    if flags.sweep is not None or flags.search is not None:
        from cv_jax.sweep import main as sweeps

        return sweeps.main(flags, overrides, [sys.executable, __file__], check_xla_flags)
    config = configs.load(flags.config, overrides)
    if config.xla_flags:
        os.environ["XLA_FLAGS"] = check_xla_flags(config.xla_flags)

    # Imported only now: jax reads its flags when it first touches a device.
    from cv_jax.devices import compile_cache
    from cv_jax.run import workdir
    from cv_jax.training import dry_run, experiment, loop

    stated = clusters.stated(flags.coordinator, flags.num_processes, flags.process_id)
    processes.start(stated or clusters.found(), config.mesh.heartbeat_seconds)
    values = {k: v for k, v in configs.flatten(config).items() if k not in LOCAL}
    processes.require_same("config", {**values, "evaluate": flags.evaluate})
    compile_cache.use(config.compile_cache)
    path = flags.workdir or workdir.default_workdir(flags.config, config)
    try:
        parts = experiment.build(config)
    except RunError as error:  # nothing has begun: the input is at fault
        raise InputError(str(error)) from None
    processes.require_same("data", parts.fingerprint)
    if flags.dry_run:
        dry_run.describe(parts)
        return loop.DONE
    if flags.evaluate:
        return loop.score(parts, path)
    command = shlex.join(["python", "launch.py", *arguments])
    code = loop.train(parts, path, command)
    for split, data in parts.fingerprint.items():
        if "broken" in data and processes.is_main():
            print(f"{len(data['broken'])} broken {split} examples were left out", file=sys.stderr)
    return code


def run(arguments: list[str]) -> int:
    """`main`, with what goes wrong told in one line; of several processes all return the same."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    try:
        return processes.finish(main(arguments))
    except InputError as error:
        return processes.fail(MISTAKE, one_line(error))
    except (Exception, KeyboardInterrupt) as error:
        if isinstance(error, RunError) or getattr(error, "errno", None):  # what the system refused
            return processes.fail(FAILED, one_line(error))
        if not processes.several():
            raise
        message = processes.lost(error)
        if message is None:
            traceback.print_exc()
            message = f"{type(error).__name__}: {error}"
        return processes.fail(FAILED, message)


if __name__ == "__main__":
    use_huge_pages()
    sys.stdout.reconfigure(errors="backslashreplace")  # a path may hold bytes that are no text
    code = run(sys.argv[1:])
    if code == FAILED:
        processes.end_at_once(code)  # threads that were still writing have nothing to add
    sys.exit(code)
