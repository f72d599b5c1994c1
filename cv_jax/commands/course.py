"""`python -m cv_jax course [DATASET]`: every claim of the line tested by runs, on one page.

Runs the missing trials of all chapters, sweep by sweep, then writes OUT/course.html and, for
GitHub, OUT/course.md with OUT/pictures. OUT/records has every trial with its commit and command.
The same command continues after a kill or Ctrl-C, and runs nothing that is finished. --dry_run
lists chapters, trials, sizes and an estimate of the time.
"""

import argparse
from pathlib import Path

from cv_jax import paths
from cv_jax.commands import option_types
from cv_jax.errors import ExitCode, InputError, Parser, did_you_mean, printable
from cv_jax.progress import clock

MOST_SEEDS = 1000


def main(arguments: list[str]) -> int:
    """Run or list chapters, and write their page.

    Returns:
      0; 1 if a trial failed; 75 if a signal stopped the runs; see `errors.ExitCode`.

    Raises:
      InputError: a chapter is unknown, the dataset has no chapters, or a path is not a folder.
    """
    options, more = _parse(arguments)
    from cv_jax.course import run
    from cv_jax.course.chapters import CHAPTERS, DATASETS

    if options.dataset not in DATASETS:
        hint = did_you_mean(options.dataset, DATASETS)
        raise InputError(
            f"unknown dataset {options.dataset!r}; allowed: {', '.join(DATASETS)}{hint}"
        )
    chosen = _chosen(options.chapters, CHAPTERS)
    run.require_experiments()
    out = options.out or Path("runs") / f"course-{options.dataset}"
    paths.require_folder(out, "--out")
    if options.dry_run:
        return _list(options, chosen, out)
    executor = _executor(options, more)
    code = ExitCode.DONE if options.page_only else _run(options, chosen, out, executor)
    if code in (ExitCode.DONE, ExitCode.FAILED):
        _write(options, chosen, out)
    return code


def _parse(arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = Parser(
        prog="python -m cv_jax course",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("dataset", nargs="?", default="digits", help="digits (default) or cifar10")
    parser.add_argument(
        "--chapters",
        metavar="NAME,NAME",
        help="names or numbers, in any order (default: all)",
    )
    parser.add_argument(
        "--seeds", type=int, metavar="N", help="seeds of every sweep (default: its own)"
    )
    parser.add_argument(
        "--slots", type=int, metavar="N", help="trials at a time; see launch.py --help"
    )
    parser.add_argument(
        "--sweep_executor",
        choices=("slots", "vmap", "slurm"),
        help="see launch.py --help; --slurm.… options are passed on",
    )
    parser.add_argument(
        "--out", type=option_types.path, metavar="DIR", help="folder (default: runs/course-DATASET)"
    )
    parser.add_argument("--dry_run", action="store_true", help="list, run nothing, write nothing")
    parser.add_argument(
        "--page_only", action="store_true", help="run nothing; write the page of what is finished"
    )
    options, more = parser.parse_known_args(arguments)
    wrong = [word for word in more if word.startswith("-") and not word.startswith("--slurm.")]
    if wrong or (more and options.sweep_executor != "slurm"):
        raise InputError(f"unknown argument {(wrong or more)[0]}; see {parser.prog} --help")
    option_types.require_ranges(options, seeds=(1, MOST_SEEDS), slots=(1, MOST_SEEDS))
    if options.slots is not None and options.sweep_executor in ("vmap", "slurm"):
        raise InputError(
            f"--slots and --sweep_executor={options.sweep_executor} do not go together"
        )
    if options.dry_run and options.page_only:
        raise InputError("--dry_run and --page_only do not go together")
    return options, more


def _chosen(text: str | None, chapters) -> list[tuple[int, object]]:
    """Return the chapters of `--chapters` with their numbers, in the order of the course."""
    if text is None:
        return list(enumerate(chapters, 1))
    names = {chapter.name: i for i, chapter in enumerate(chapters, 1)}
    numbers = set()
    for word in text.split(","):
        number = int(word) if word.isdecimal() and len(word) < 9 else names.get(word)
        if number not in names.values():
            hint = did_you_mean(word, names)
            raise InputError(
                f"--chapters: unknown chapter {word!r}; allowed: {', '.join(names)}{hint}"
            )
        numbers.add(number)
    return [(i, chapter) for i, chapter in enumerate(chapters, 1) if i in numbers]


def _executor(options: argparse.Namespace, more: list[str]) -> list[str]:
    flags = [] if options.slots is None else ["--slots", str(options.slots)]
    if options.sweep_executor is not None:
        flags += [f"--sweep_executor={options.sweep_executor}", *more]
    return flags


# ---- Runs


def _run(options: argparse.Namespace, chosen, out: Path, executor: list[str]) -> int:
    """Run the studies that are not finished, one after the other; return the exit code."""
    from cv_jax.course import run

    code = ExitCode.DONE
    for number, chapter in chosen:
        waiting = set()
        for study in chapter.studies:
            if options.dataset not in study.arguments:
                continue
            place, seeds = out / "runs", options.seeds or study.seeds
            if run.is_finished(study, options.dataset, place, seeds):
                continue
            if waiting & set(study.needs):
                print(
                    f"{study.name} waits for {', '.join(study.needs)}; the same command continues"
                )
                waiting.add(study.name)
                continue
            print(f"\nchapter {number}, {chapter.name}: {study.name}", flush=True)
            ended = run.run(run.flags(study, options.dataset, place, seeds, executor))
            if ended not in (ExitCode.DONE, ExitCode.FAILED):
                return ended
            code = max(code, ended)
            if not run.is_finished(study, options.dataset, place, seeds):
                waiting.add(study.name)
    return code


def _list(options: argparse.Namespace, chosen, out: Path) -> int:
    """Print chapters, settings, sizes and the estimated time."""
    from cv_jax.course import estimate, run
    from cv_jax.sweep.display import aligned

    speed = estimate.speed()
    head = ["study", "setting", "parameters", "mult-adds/image", "steps", "seeds", "seconds"]
    total = 0.0
    for number, chapter in chosen:
        print(f"{number}. {chapter.name}: {chapter.claim}")
        rows, seconds = [], 0.0
        for study in chapter.studies:
            if options.dataset not in study.arguments:
                continue
            seeds = options.seeds or study.seeds
            settings = run.sweep_of(run.alone(study), options.dataset, out, None)
            for cost in estimate.costs(settings, speed):
                numbers = cost.parameters, cost.multiply_adds, cost.steps, seeds
                rows.append(
                    [study.name, cost.name, *(f"{n:,}" for n in numbers), f"{cost.seconds:.0f}"]
                )
                seconds += seeds * cost.seconds
        print("\n".join(aligned([head, *rows], left=2)))
        print(f"about {clock(seconds)} one after the other\n")
        total += seconds
    slots = options.slots or 1
    print(
        f"about {clock(total / slots)} on {slots} {'slots' if slots > 1 else 'slot'}, good to a "
        f"factor of three: {estimate.START:.0f} s for each start, and training at "
        f"{speed / 1e9:.1f} G multiply-adds a second, the speed of a convolution here"
    )
    return ExitCode.DONE


def _write(options: argparse.Namespace, chosen, out: Path) -> None:
    from cv_jax.course import page

    told = page.write(out, options.dataset, chosen, options.seeds)
    for one in told:
        print(printable(f"{one.number}. {one.chapter.name}: {one.state}"))
    print(printable(f"written to {out / page.HTML} and {out / page.MARKDOWN}"))
