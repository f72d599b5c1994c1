"""Strike runs with more than a thousand faults in one process, and check what follows each.

    python benchmarks/reliability.py [--faults 1000] [--seed 0] [--output FILE]

A few runs of seconds are trained once. Each fault strikes copies of them: `stored_faults.py`,
`moment_faults.py`, `data_faults.py` and `trial_faults.py` hold the faults. Then the run is
read, verified and started until it has ended; an error must be one line with advice, which is
followed. A fault is survived if every state that was read equals the true state of that step bit
for bit, the run ends like the uninterrupted one, and no file of others is lost. Otherwise it is
wrong, lost or stuck. `benchmarks/faults.py` does the same with processes that are really killed.

The seed and the number of a fault determine its choices: `--only NAME --number N` repeats it.
`--page` writes the table of `docs/reliability.md` from the recorded files.
"""

import argparse
import collections
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import data_faults
import moment_faults
import stored_faults
import trial_faults
from fault_injection import CaseFailed
from trained_runs import Case, Struck, Trained, allow, recover, train_all

from cv_jax.run import json_files, provenance

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "reliability.md"
BEGIN, END = "<!-- faults: begin -->\n", "<!-- faults: end -->\n"
SECONDS = 60  # a fault that takes longer is stuck

# Groups of faults, and how many of 100 faults each group has.
GROUPS: dict[str, tuple[dict[str, Callable[[Case], Struck | None]], int]] = {
    "files of a run": (stored_faults.FAULTS, 28),
    "moments of a run": (moment_faults.FAULTS, 8),
    "data": (data_faults.FAULTS, 26),
    "trials of a sweep": (trial_faults.FAULTS, 38),
}
FAULTS = {name: fault for faults, _ in GROUPS.values() for name, fault in faults.items()}


class Report(NamedTuple):
    """Outcome of one fault.

    Attributes:
      name: kind of fault.
      number: its number among the faults of its kind; with the seed it determines all choices.
      details: what was struck.
      told: "at once" or "after advice", see `trained_runs.recover`.
      failure: why it is wrong, lost or stuck; `None` if the run survived.
    """

    name: str
    number: int
    details: str
    told: str
    failure: str | None


def plan(faults: int) -> dict[str, int]:
    """Return how many faults of each kind a campaign has; at least `faults` together."""
    return {
        name: -(-faults * share // (100 * len(kinds)))
        for kinds, share in GROUPS.values()
        for name in kinds
    }


def strike(
    name: str, number: int, seed: int, trained: dict[str, Trained], changes: int, folder: Path
) -> Report | None:
    """Apply one fault in a new folder, and check what follows; `None` if it found nothing."""
    folder.mkdir()
    case = Case(trained, folder, random.Random(f"{seed} {name} {number}"), changes=changes)
    struck, failure, told = None, None, ""
    signal.signal(signal.SIGALRM, _stuck)
    signal.alarm(SECONDS)
    try:
        struck = FAULTS[name](case)
        if struck is not None:
            told = struck.told or recover(case, struck)
    except CaseFailed as error:
        failure = str(error)
    finally:
        signal.alarm(0)
        if os.path.ismount(case.path):
            subprocess.run(["umount", str(case.path)], check=True)
    if struck is None and failure is None:
        shutil.rmtree(folder)
        return None
    if failure is None:
        allow(folder)
        shutil.rmtree(folder)
    return Report(name, number, struck.details if struck else "", told, failure)


def _stuck(number: int, frame: Any) -> None:
    raise CaseFailed(f"stuck: longer than {SECONDS} s")


def campaign(
    counts: dict[str, int], seed: int, folder: Path, trained: dict[str, Trained] | None = None
) -> Iterator[Report]:
    """Apply faults of each kind.

    Args:
      counts: name of a kind → number of faults; see `plan`.
      seed: of all choices.
      folder: for the runs; folders of failed cases stay.
      trained: runs of `trained_runs.train_all`; trained here by default.
    """
    trained = trained or train_all(folder / "runs")
    (folder / "count").mkdir()
    changes = moment_faults.count_changes(Case(trained, folder / "count", random.Random(0)))
    for name, count in counts.items():
        number = found = 0
        while found < count and number < 3 * count + 3:
            report = strike(name, number, seed, trained, changes, folder / "case")
            number += 1
            if report is None:
                continue
            found += 1
            if report.failure is not None:
                place = f"{list(FAULTS).index(name)}-{report.number}"
                (folder / "case").rename(folder / place)
            yield report


def summarise(reports: list[Report], seed: int, seconds: float) -> dict[str, Any]:
    """Return the counts of a campaign, with command and environment."""
    rows = []
    for group, (kinds, _) in GROUPS.items():
        for name in kinds:
            own = [report for report in reports if report.name == name]
            ends = collections.Counter(report.told for report in own if report.failure is None)
            bad = collections.Counter(
                report.failure.partition(":")[0] for report in own if report.failure
            )
            row = {"group": group, "kind": name, "faults": len(own)}
            row |= {"at_once": ends["at once"], "after_advice": ends["after advice"]}
            rows.append(row | {end: bad[end] for end in ("wrong", "lost", "stuck")})
    return {
        "command": " ".join(["python", *sys.argv]),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        **provenance.environment(),
        "seed": seed,
        "faults": len(reports),
        "processor_seconds": round(seconds),
        **{end: sum(row[end] for row in rows) for end in ("wrong", "lost", "stuck")},
        "kinds": rows,
    }


def table() -> str:
    """Return the tables of the page as Markdown, from the recorded files."""
    own = json.loads((RESULTS / "reliability.json").read_text())
    real = json.loads((RESULTS / "faults.json").read_text())
    command = own["command"].partition(" --output")[0]
    lines = [
        f"{own['faults']:,} faults on {own['date']}, commit `{own['commit'][:7]}`, in "
        f"{own['processor_seconds']} s of processor time (`{command}`, recorded in "
        "`benchmarks/results/reliability.json`):",
        "",
        "| fault | number | right result at once | after one line | wrong | lost | stuck |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    names = ("faults", "at_once", "after_advice", "wrong", "lost", "stuck")
    for group in GROUPS:
        rows = [row for row in own["kinds"] if row["group"] == group]
        lines += [
            f"| {row['kind']} | {' | '.join(str(row[name]) for name in names)} |" for row in rows
        ]
        sums = [sum(row[name] for row in rows) for name in names]
        lines.append(f"| **{group}** | {' | '.join(f'**{number}**' for number in sums)} |")
    kinds = ", ".join(f"{count} × {name}" for name, count in real["faults_of_each_sort"].items())
    lines += [
        "",
        f"{real['faults']} faults in {real['runs']} runs of processes of their own, commit "
        f"`{real['commit'][:7]}` (`{real['command']}`, recorded in "
        f"`benchmarks/results/faults.json`): {real['wrong_results']} wrong, "
        f"{real['lost_results']} lost. {kinds}.",
    ]
    return "\n".join(lines) + "\n"


def page() -> str:
    """Return the text of the page with the tables of the recorded files."""
    before, rest = PAGE.read_text().split(BEGIN)
    return before + BEGIN + table() + END + rest.split(END)[1]


def main() -> int:
    """Run the campaign, print the failures, and write the counts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--faults", type=int, default=1000, help="number of faults (default 1000)")
    parser.add_argument("--seed", type=int, default=0, help="seed of all choices (default 0)")
    parser.add_argument("--only", choices=FAULTS, help="faults of one kind")
    parser.add_argument("--number", type=int, help="with --only: the fault of this number")
    parser.add_argument("--folder", type=Path, help="keep failed cases in this new folder")
    parser.add_argument("--output", type=Path, help="write the counts to this JSON file")
    parser.add_argument("--page", action="store_true", help="write docs/reliability.md only")
    flags = parser.parse_args()
    if flags.page:
        PAGE.write_text(page())
        return 0
    folder = flags.folder or Path(tempfile.mkdtemp())
    folder.mkdir(exist_ok=True)
    counts = {flags.only: flags.faults} if flags.only else plan(flags.faults)
    reports, started = [], time.process_time()
    if flags.number is not None:
        (folder / "count").mkdir()
        trained = train_all(folder / "runs")
        changes = moment_faults.count_changes(Case(trained, folder / "count", random.Random(0)))
        print(strike(flags.only, flags.number, flags.seed, trained, changes, folder / "case"))
        return 0
    for report in campaign(counts, flags.seed, folder.absolute()):
        reports.append(report)
        if report.failure or flags.only:
            print(*report, sep=" | ", flush=True)
    found = summarise(reports, flags.seed, time.process_time() - started)
    for row in found["kinds"]:
        print(*row.values(), sep=" | ")
    print({name: found[name] for name in ("faults", "processor_seconds", "wrong", "lost", "stuck")})
    if flags.output:
        json_files.write_json(flags.output, found)
    if not flags.folder:
        shutil.rmtree(folder, ignore_errors=True)
    return 1 if found["wrong"] or found["lost"] or found["stuck"] else 0


if __name__ == "__main__":
    sys.exit(main())
