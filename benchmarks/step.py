"""Images per second of whole training steps, beside PyTorch's on the same machine.

    python -m benchmarks.step [CASE …] [--device cpu|gpu] [--minutes M] [--out FILE.json]

A step augments a uint8 batch in device memory, computes loss and gradient, and updates the
parameters. Each measurement is a process of its own; in every round `cv_jax` and its peer take
turns, so that other load on the machine affects both. Results are medians over the rounds of the
medians of their repetitions; compiling and the first steps are reported apart. The peers, and how
they are tuned, are in `benchmarks/peers.py`; where a library is not installed there is no peer.

`step_cases.py` lists the cases, the most important first. The file is written again after every
measurement, so an interrupted benchmark leaves what it has measured. Both sides run with the large
pages that `launch.py` uses. A CPU computes in float32, a GPU in bfloat16.
"""

import argparse
import json
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

from benchmarks import turns
from benchmarks.step_cases import CASES, TINY, order

SIDES = ("cv_jax", "peer compiled", "peer eager")


def jobs(
    name: str,
    device: str,
    scratch: Path,
    *,
    peer_python: str = sys.executable,
    sides: tuple[str, ...] = SIDES,
    dtype: str | None = None,
    tiny: bool = False,
    profile: bool = False,
    seconds: float = 240,
) -> list[turns.Job]:
    """Return the measurements of one round of a case.

    Args:
      name: of the case.
      device: "cpu" or "gpu".
      scratch: folder for compiled programs, which later rounds load.
      peer_python: interpreter of the peers.
      sides: what to measure, of `SIDES`.
      dtype: of the computation; by default bfloat16 on a GPU and float32 on a CPU.
      tiny: small networks, for tests.
      profile: whether to add the milliseconds of every kind of kernel.
      seconds: limit of a measurement.
    """
    case = (TINY if tiny else CASES)[name]
    batch = case.batch if device == "gpu" else case.cpu_batch
    dtype = dtype or ("bfloat16" if device == "gpu" else "float32")
    shared = ["--batch", str(batch), "--dtype", dtype]
    if tiny:
        shared += ["--tiny", "--repetitions", "2", "--seconds", "0.01"]
    variables = variables_of(device, scratch)
    facts = {"case": name, "batch": batch, "dtype": dtype}
    half = device == "gpu" and dtype == "bfloat16"
    found = []
    for side in sides:
        if side == "cv_jax":
            variants = case.variants if half and case.variants else {"": {}}
            for variant, fields in variants.items():
                words = [sys.executable, "-m", "benchmarks.step_product", name, *shared]
                words += ["--fields", json.dumps(fields), "--cache", str(scratch / "programs")]
                words += ["--profile"] if profile else []
                known = {**facts, "side": side, "variant": variant}
                title = " ".join(filter(None, (name, side, variant)))
                found.append(turns.Job(title, tuple(words), seconds, known, variables))
        else:
            words = [peer_python, "-m", "benchmarks.peers", name, "--device", device, *shared]
            words += ["--eager"] if side == "peer eager" else []
            known = {**facts, "side": side, "peer": " ".join(case.peer)}
            found.append(turns.Job(f"{name} {side}", tuple(words), seconds, known, variables))
    return found


def variables_of(device: str, scratch: Path) -> dict[str, str]:
    """Return the environment variables of measuring processes."""
    return {
        "JAX_PLATFORMS": "cpu" if device == "cpu" else "cuda",
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # the next process may already have started
        "TORCHINDUCTOR_CACHE_DIR": str(scratch / "inductor"),
        "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",  # as launch.py
    }


def environment(device: str, scratch: Path, tiny: bool) -> turns.Job:
    """Return the job that records versions, devices and the speed of a matrix product."""
    side = 256 if tiny else 8192 if device == "gpu" else 2048
    dtype = "bfloat16" if device == "gpu" else "float32"
    words = [sys.executable, "-m", "benchmarks.environment", "--side", str(side), "--dtype", dtype]
    return turns.Job("environment", tuple(words), 90, {}, variables_of(device, scratch))


def summary(rows: list[dict]) -> dict[str, dict]:
    """Return the medians of all cases.

    Args:
      rows: results of measurements; those with an error do not count.

    Returns:
      case → side → images per second; and, where both sides are measured, `"ratio"`: the fastest of
      `cv_jax`'s variants divided by the fastest of the peer's.
    """
    rounds: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        if "images_per_second" in row:
            side = " ".join(filter(None, (row["side"], row.get("variant"))))
            median = statistics.median(row["images_per_second"])
            rounds.setdefault(row["case"], {}).setdefault(side, []).append(median)
    found = {}
    for case, sides in rounds.items():
        found[case] = {side: statistics.median(values) for side, values in sides.items()}
        ours = [speed for side, speed in found[case].items() if side.startswith("cv_jax")]
        theirs = [speed for side, speed in found[case].items() if side.startswith("peer")]
        if ours and theirs:
            found[case]["ratio"] = max(ours) / max(theirs)
    return found


def table(summary_: dict[str, dict]) -> str:
    """Return the summary as lines of text."""
    lines = []
    for case, sides in summary_.items():
        speeds = [f"{side} {speed:,.1f}" for side, speed in sides.items() if side != "ratio"]
        ratio = f"; ratio {sides['ratio']:.2f}" if "ratio" in sides else ""
        lines.append(f"{case:16} {', '.join(speeds)} images/s{ratio}")
    return "\n".join(lines)


def is_missing(row: dict) -> bool:
    """Whether a measurement failed because a library of the peer is not installed."""
    return row.get("error", "").startswith(("ModuleNotFoundError", "ImportError"))


def found_device() -> str:
    """Return "gpu" on a machine with an NVIDIA GPU, else "cpu"."""
    return "gpu" if shutil.which("nvidia-smi") and Path("/dev/nvidia0").exists() else "cpu"


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of {', '.join(CASES)}")
    parser.add_argument("--device", choices=("cpu", "gpu"), default=found_device())
    parser.add_argument("--minutes", type=float, help="time for everything")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=SIDES)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"))
    parser.add_argument("--peer-python", default=sys.executable, help="interpreter of the peers")
    parser.add_argument("--profile", action="store_true", help="also times of kernels")
    parser.add_argument("--tiny", action="store_true", help="small networks, for tests")
    parser.add_argument("--out", type=Path, help="write the result to this JSON file")
    flags = parser.parse_args()
    known = TINY if flags.tiny else CASES
    for case in flags.cases:
        if case not in known:
            parser.error(f"case {case!r} is not one of {', '.join(known)}")
    cases = flags.cases or [name for name in order(flags.device) if name in known]

    from cv_jax.run import json_files

    result = {"command": " ".join(["python -m benchmarks.step", *sys.argv[1:]])}
    result |= {"environment": {}, "summary": {}, "rows": []}

    def emit(row):
        if row["name"] == "environment":
            result["environment"] = row
        else:
            result["rows"].append(row)
            result["summary"] = summary(result["rows"])
            found = row.get("images_per_second")
            text = f"{statistics.median(found):,.1f} images/s" if found else row.get("error")
            print(f"{row['name']}: {text}", flush=True)
        if flags.out:
            json_files.write_json(flags.out, result)

    with tempfile.TemporaryDirectory() as scratch:
        schedule = turns.Turns(emit, flags.minutes, overlap=flags.device == "gpu")
        schedule.take(environment(flags.device, Path(scratch), flags.tiny))
        options = {
            name: getattr(flags, name) for name in ("peer_python", "dtype", "tiny", "profile")
        }
        for _ in range(flags.rounds):
            for case in cases:
                sides = tuple(flags.sides)
                for job in jobs(case, flags.device, Path(scratch), sides=sides, **options):
                    if not any(r["name"] == job.name and is_missing(r) for r in result["rows"]):
                        schedule.take(job)
        schedule.finish()
    print(table(result["summary"]))
    return 0 if any("images_per_second" in row for row in result["rows"]) else 1


if __name__ == "__main__":
    sys.exit(main())
