"""Apply faults to runs, and check that the results equal those of uninterrupted runs bit for bit.

    python benchmarks/faults.py [--faults 120] [--seed 0] [--output FILE]

A case trains one run while one to four faults of `benchmarks/fault_injection.py` strike it. Then
the same command is repeated until the run has ended and `verify` finds no damage; if an error
message gives advice, the advice is followed. At the end all arrays of the last checkpoint,
metrics.jsonl and summary.json must equal those of an uninterrupted run. A case is lost if the run
does not end, and wrong if it has a different result, a traceback or an unknown exit code.

The seed of a case determines every choice: `--seed SEED --faults 1` repeats a case, except for the
exact moments of its faults.
"""

import argparse
import collections
import contextlib
import io
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from fault_injection import FAULTS, KINDS, Case, CaseFailed, draw_faults, end

from cv_jax.commands import verify
from cv_jax.errors import ExitCode, InputError
from cv_jax.run import checkpoint, json_files, provenance

# ---- Recovery


def finish(case: Case, messages: list[str]) -> None:
    """Repeat the command until the run has ended without damage.

    Args:
      case: the run.
      messages: list to which messages about damage are added.

    Raises:
      CaseFailed: the run does not end, or ends with a traceback or an unknown exit code.
    """
    for _ in range(8):
        code, stderr = end(case.start())
        messages += _messages_of(stderr)
        if code in (ExitCode.FAILED, ExitCode.MISTAKE):
            _follow_advice(case, stderr.splitlines()[-1])
        elif code == ExitCode.DONE:
            damage = _verify(case.workdir)
            messages += damage
            if not damage:
                return
            for line in damage:
                if "can be deleted" in line:
                    shutil.rmtree(line.partition(": ")[0])
    raise CaseFailed(f"lost: the run does not end; {' | '.join(messages)}")


def _messages_of(stderr: str) -> list[str]:
    return [line for line in stderr.splitlines() if line.startswith(("error:", "WARNING:"))]


def _verify(path: Path) -> list[str]:
    """Return the lines of `python -m cv_jax verify` that report damage."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        try:
            verify.main([str(path)])
        except InputError as error:
            return [str(error)]
    good = (": sound", ": the data of the training")
    return [line for line in output.getvalue().splitlines() if not line.endswith(good)]


def _follow_advice(case: Case, message: str) -> None:
    """Delete the directories and links that the message names, or start a new run."""
    named = [p for p in case.workdir.rglob("*") if _replaces_a_file(p) and str(p) in message]
    for path in named:
        path.rmdir() if path.is_dir() else path.unlink()
    if not named:
        if "another --workdir" not in message:
            raise CaseFailed(f"lost: the message gives no advice: {message}")
        os.rename(case.workdir, case.workdir.with_name(f"given-up-{time.time_ns()}"))


def _replaces_a_file(path: Path) -> bool:
    name_of_a_file = path.suffix in (".json", ".jsonl") or path.name == "lock"
    return path.is_symlink() or (path.is_dir() and name_of_a_file)


# ---- Results


def result(path: Path) -> tuple[dict[str, np.ndarray], dict, int, str, str]:
    """Return arrays, metrics and step of the last checkpoint, metrics.jsonl and summary.json."""
    folder = path / "checkpoints"
    arrays, step = checkpoint.read_newest(folder, lambda name: True)
    metrics = checkpoint.read_metrics(folder / str(step))
    texts = [(path / name).read_text() for name in ("metrics.jsonl", "summary.json")]
    return arrays, metrics, step, *texts


def compare(got: tuple, expected: tuple) -> None:
    """Raise `CaseFailed` unless two results are equal, bit for bit."""
    for name, array in expected[0].items():
        other = got[0].get(name)
        same = other is not None and other.dtype == array.dtype and other.shape == array.shape
        if not same or other.tobytes() != array.tobytes():
            raise CaseFailed(f"wrong: the array {name} differs")
    if got[0].keys() != expected[0].keys() or got[1:] != expected[1:]:
        raise CaseFailed(f"wrong: {got[1:]} instead of {expected[1:]}")


class Reference(NamedTuple):
    """Result and duration of an uninterrupted run."""

    result: tuple
    seconds: float


def uninterrupted(kind: str, folder: Path, data_dir: Path) -> Reference:
    """Train a run of that kind without faults."""
    folder.mkdir(parents=True)
    case = Case(kind, folder, data_dir, random.Random(0), 0.0)
    started = time.monotonic()
    code, stderr = end(case.start())
    if code:
        raise CaseFailed(f"wrong: {stderr}")
    return Reference(result(case.workdir), time.monotonic() - started)


# ---- Campaign


class Report(NamedTuple):
    """Outcome of one case.

    Attributes:
      seed: seed of the case.
      kind: kind of run.
      faults: `(name, details, exit code of the struck process)` in order.
      messages: messages of the program about damage.
      failure: why the case is lost or wrong; `None` if its result equals the uninterrupted one.
    """

    seed: int
    kind: str
    faults: list[tuple[str, str, int | None]]
    messages: list[str]
    failure: str | None


def run_case(
    seed: int,
    references: dict[str, Reference],
    data_dir: Path,
    folder: Path,
    faults: list[str] | None = None,
) -> Report:
    """Apply faults to one run, complete it, and compare its result.

    Args:
      seed: seed of every choice.
      references: kind → its uninterrupted run.
      data_dir: prepared digits.
      folder: an empty or new folder.
      faults: names of faults; drawn by default.
    """
    draw = random.Random(seed)
    kind = draw.choice(list(references))
    case = Case(kind, folder, data_dir, draw, references[kind].seconds)
    folder.mkdir(parents=True, exist_ok=True)
    names = faults or draw_faults(draw)
    struck, messages, failure = [], [], None
    try:
        for name in names:
            strike = FAULTS[name](case)
            if strike is not None:
                struck.append((name, strike.details, strike.code))
                messages += _messages_of(strike.stderr)
        finish(case, messages)
        compare(result(case.workdir), references[kind].result)
    except CaseFailed as error:
        failure = str(error)
    finally:
        if os.path.ismount(case.workdir):
            subprocess.run(["umount", str(case.workdir)], check=True)
    return Report(seed, kind, struck, messages, failure)


def campaign(faults: int, seed: int, folder: Path) -> Iterator[Report]:
    """Run cases until `faults` faults have struck."""
    from cv_jax.data import embedded

    data_dir = embedded.ensure("digits", folder / "data")
    references = {
        kind: uninterrupted(kind, folder / "uninterrupted" / kind, data_dir) for kind in KINDS
    }
    count = 0
    while count < faults:
        path = folder / str(seed)
        report = run_case(seed, references, data_dir, path)
        yield report
        if report.failure is None:
            shutil.rmtree(path)
        count += len(report.faults)
        seed += 1


def summarise(reports: list[Report]) -> dict:
    """Return the counts of a campaign, with command and environment."""
    count = collections.Counter(name for report in reports for name, _, _ in report.faults)
    kinds = collections.Counter(report.kind for report in reports)
    failures = [report for report in reports if report.failure is not None]
    lost = [report.seed for report in failures if report.failure.startswith("lost")]
    return {
        "command": " ".join(["python", *sys.argv]),
        **provenance.environment(),
        "runs": len(reports),
        "runs_of_each_kind": dict(sorted(kinds.items())),
        "faults": count.total(),
        "faults_of_each_sort": dict(count.most_common()),
        "runs_that_told_of_damage": sum(bool(report.messages) for report in reports),
        "lost_results": len(lost),
        "wrong_results": len(failures) - len(lost),
        "seeds_of_failures": [report.seed for report in failures],
    }


def main() -> int:
    """Run the campaign, print one line for each case, and write the counts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--faults", type=int, default=120, help="number of faults (default 120)")
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the first case; each next case has one more"
    )
    parser.add_argument("--folder", type=Path, help="keep failed cases in this folder")
    parser.add_argument("--output", type=Path, help="write the counts to this JSON file")
    flags = parser.parse_args()
    reports = []
    with contextlib.ExitStack() as stack:
        folder = flags.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for report in campaign(flags.faults, flags.seed, folder.absolute()):
            reports.append(report)
            did = "; ".join(f"{name} ({details}) → {code}" for name, details, code in report.faults)
            print(f"{report.seed} {report.kind}: {did}: {report.failure or 'as uninterrupted'}")
            sys.stdout.flush()
    counts = summarise(reports)
    print(counts)
    if flags.output:
        json_files.write_json(flags.output, counts)
    return 1 if counts["seeds_of_failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
