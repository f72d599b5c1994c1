"""Train, continue or evaluate one run, or a sweep of runs.

python launch.py --config configs/vit_b16.py
python launch.py --config configs/vit_b16.py:cifar10 --config.optim.learning_rate=3e-4
python launch.py --config configs/vit_b16.py --evaluate
python launch.py --config configs/mlp.py --sweep=width --seeds 3 --slots 2
"""

import gc
import os
import sys

from cv_jax import signals

if __name__ == "__main__":  # before the imports below, which take seconds
    gc.disable()  # see `start.after_imports`
    signals.block()
    # Every step on a CPU allocates its working memory anew, and mapping it in pages of 4 KiB takes
    # much of the time (`benchmarks/huge_pages.py`). glibc reads the setting for large allocations
    # in huge pages when a process starts.
    if sys.platform == "linux" and "GLIBC_TUNABLES" not in os.environ:
        os.environ["GLIBC_TUNABLES"] = "glibc.malloc.hugetlb=1"
        os.execv(sys.executable, sys.orig_argv)
    signals.watch()
    from cv_jax.devices import start

    start.load_jax()
elif __name__ == "__mp_main__":  # a loader process
    from cv_jax.data import children

    children.end_with_the_parent()

import argparse
import shutil
import textwrap
import traceback

from cv_jax import config as configs
from cv_jax import output
from cv_jax.commands import option_types
from cv_jax.config.fields import FIELDS
from cv_jax.data import fingerprint
from cv_jax.devices import clusters, processes, start
from cv_jax.errors import ExitCode, InputError, Parser, RunError, exit_code, one_line, shell_line
from cv_jax.sweep import slurm

# Fields that may differ between processes: how and where each of them loads the same data.
LOCAL = ("data.dir", "data.workers", "data.threads", "data.prefetch", "compile_cache")


def parse_arguments(arguments: list[str]) -> tuple[argparse.Namespace, dict[str, str]]:
    """Return the flags, and the overrides `--config.NAME=VALUE` as name → text.

    Raises:
      InputError: a flag is unknown, has no value, or does not fit the other flags.
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
    flags = _make_parser().parse_args(rest)
    _check_together(flags)
    return flags, overrides


def _make_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python launch.py",
        description=__doc__,
        epilog=_describe_fields(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--config",
        required=True,
        metavar="FILE[:DATASET[,KEY=VALUE…]]",
        help="config file, and the argument of its get_config",
    )
    parser.add_argument(
        "--workdir",
        type=option_types.path,
        metavar="DIR",
        help="run directory (default: named by the config)",
    )
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--evaluate", action="store_true", help="evaluate the newest checkpoint")
    mode.add_argument(
        "--dry_run",
        action="store_true",
        help="print shapes, parameters, multiply-adds and memory; write nothing",
    )
    group = parser.add_argument_group("several processes (on a known cluster: found automatically)")
    group.add_argument("--coordinator", metavar="HOST:PORT", help="address of process 0")
    group.add_argument("--num_processes", type=int, metavar="N", help="number of processes")
    group.add_argument("--process_id", type=int, metavar="I", help="index of this process, from 0")
    _add_sweep_flags(parser)
    cluster = parser.add_argument_group("Slurm jobs, for --sweep_executor=slurm")
    for option in slurm.OPTIONS:
        kind = {"action": "append"} if option.kind is list else {"type": option.kind}
        cluster.add_argument(f"--slurm.{option.name}", help=option.meaning, metavar="…", **kind)
    return parser


def _add_sweep_flags(parser: argparse.ArgumentParser) -> None:
    sweep = parser.add_argument_group("sweeps (see cv_jax/sweep/points.py)")
    sweep.add_argument(
        "--sweep",
        nargs="?",
        const="",
        metavar="NAME,NAME",
        help="run every point of the config file's sweep(), or all combinations of the points of "
        "its sweep_NAME()",
    )
    sweep.add_argument("--seeds", type=int, metavar="N", help="run each point with seeds 0 … N-1")
    sweep.add_argument(
        "--search",
        nargs="?",
        const="random",
        metavar="METHOD",
        help="run points drawn from the config file's search(): random (default) or optuna",
    )
    sweep.add_argument("--trials", type=int, metavar="N", help="points of a search (default 20)")
    sweep.add_argument(
        "--sweep_dir",
        type=option_types.path,
        metavar="DIR",
        help="directory of the trials (default: named by the config)",
    )
    sweep.add_argument(
        "--slots",
        type=int,
        metavar="N",
        help="trials at a time, sharing all devices (default: one for each GPU or TPU chip; one on "
        "a CPU)",
    )
    sweep.add_argument(
        "--sweep_executor",
        choices=("slots", "vmap", "slurm"),
        help="slots (default): each trial in its own process; vmap: all trials in one program, if "
        "they differ in numbers only; slurm: each trial as a job",
    )


def _describe_fields() -> str:
    """Return every config field with its meaning, range, default and kind."""
    width = min(100, shutil.get_terminal_size((100, 24)).columns)
    indent = 40 if width >= 80 else 8  # narrow: the meaning below the name
    introduction = (
        "config fields: --config.FIELD=VALUE (of the model: --config.model.FIELD=VALUE, listed in "
        "cv_jax/models). Result fields decide the result and are fixed for a run directory; "
        "evaluation fields decide what is measured; run fields may change at every restart."
    )
    lines = [textwrap.fill(introduction, width), ""]
    for field in FIELDS.values():
        facts = filter(None, (field.range, f"default {_text(field.default)}", field.kind))
        name = f"  --config.{field.name}"
        if len(name) >= indent:
            lines.append(name)
            name = ""
        lines.append(
            textwrap.fill(
                f"{field.meaning} ({'; '.join(facts)})",
                width=width,
                initial_indent=name.ljust(indent),
                subsequent_indent=" " * indent,
                break_long_words=False,
                break_on_hyphens=False,
            )
        )
    return "\n".join(lines)


def _text(default: object) -> str:
    """Return a default as the command line writes it."""
    if default is None or isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, tuple):
        return ",".join(map(str, default)) or "empty"
    return str(default) or "empty"


def _check_together(flags: argparse.Namespace) -> None:
    """Raise an `InputError` for flags that exclude each other or need another flag."""
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
    """Return the flags of `XLA_FLAGS` and these.

    Raises:
      InputError: XLA rejects a flag.
    """
    both = f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip()
    start.check_xla_flags(both, f"config.xla_flags={flags!r}")
    return both


def main(arguments: list[str]) -> int:
    """Run one command, and return its exit code."""
    flags, overrides = parse_arguments(arguments)
    if not (flags.dry_run or flags.evaluate):
        output.optional()
    if flags.sweep is not None or flags.search is not None:
        from cv_jax.sweep import main as sweeps

        start.after_imports()
        return sweeps.main(flags, overrides, [sys.executable, __file__], check_xla_flags)
    config = configs.load(flags.config, overrides)
    if config.xla_flags:
        os.environ["XLA_FLAGS"] = check_xla_flags(config.xla_flags)

    # Import after setting XLA_FLAGS: jax reads them when it first uses a device.
    from cv_jax.devices import compile_cache
    from cv_jax.run import provenance, workdir
    from cv_jax.training import dry_run, evaluate, experiment, loop

    start.after_imports()
    stated = clusters.stated(flags.coordinator, flags.num_processes, flags.process_id)
    processes.start(stated or clusters.found(), config.mesh.heartbeat_seconds)
    values = {k: v for k, v in configs.flatten(config).items() if k not in LOCAL}
    processes.require_same("config", {**values, "evaluate": flags.evaluate})
    start.check_devices()
    if processes.several():
        processes.require_same("environment", provenance.shared())
    compile_cache.use(config.compile_cache)
    if flags.dry_run:
        config = configs.with_normalisation(config)
    path = flags.workdir or workdir.named_workdir(flags.config, config)
    try:
        parts = experiment.build(config, flags.evaluate, path)
    except RunError as error:  # before training every error is a mistake in the input
        raise InputError(str(error)) from None
    shared = {k: fingerprint.of_every_host(v) for k, v in parts.fingerprint.items()}
    processes.require_same("data", shared)
    if flags.dry_run:
        dry_run.describe(parts)
        return ExitCode.DONE
    if flags.workdir is None:
        found = workdir.default_workdir(flags.config, config, parts.fingerprint)
        if found != path and config.data.mean is None:  # an older run has its own normalisation
            parts = experiment.build(config, flags.evaluate, found)
        path = found
    if flags.evaluate:
        return evaluate.evaluate(parts, path)
    command = shell_line(["python", "launch.py", *arguments])
    code = loop.train(parts, path, command)
    if config.report and code == ExitCode.DONE and processes.is_main():
        from cv_jax.report import run_page

        # Only one process writes, and the network of several processes needs all of them.
        run_page.write_at_end(path, pictures=not processes.several())
    for split, data in parts.fingerprint.items():
        if "broken" in data and processes.is_main():
            print(f"{len(data['broken'])} broken {split} examples were left out", file=sys.stderr)
    return code


def run(arguments: list[str]) -> int:
    """Run `main`, and print an error as one line; all processes return the same exit code."""
    try:
        return processes.finish(main(arguments))
    except Exception as error:
        code = exit_code(error)
        if code is not None:
            return processes.fail(code, one_line(error))
        if not processes.several():
            raise
        message = processes.lost(error)
        if message is None:
            traceback.print_exc()
            message = f"{type(error).__name__}: {error}"
        return processes.fail(ExitCode.FAILED, message)


if __name__ == "__main__":
    output.guard()
    code = run(sys.argv[1:])
    if code == ExitCode.FAILED:
        signals.end_at_once(code)  # do not wait for threads that still write
    sys.exit(code)
