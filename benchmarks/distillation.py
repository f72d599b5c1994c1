"""Accuracy that a student gains from a teacher when it has ten labelled digits of each class.

    python benchmarks/distillation.py --output benchmarks/results/distillation.json

The teacher (configs/lenet5.py) learns from the whole training split. The student, a small fully
connected network, learns from 100 of these images, in three ways: from labels, from labels with
mixup, and from labels and the teacher with mixup. Images, steps and seeds are the same. The gain is
relative to the better of the first two. Each run is `python launch.py` in its own process.
"""

import argparse
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from cv_jax.run import json_files

ROOT = Path(__file__).resolve().parent.parent
TEACHER = ["--config", "configs/lenet5.py", "--config.eval.every_epochs=40"]
STUDENT = [
    *["--config", "configs/mlp.py", "--config.model.widths=64", "--config.model.dropout_rate=0"],
    *["--config.data.per_class=10", "--config.batch_size=50", "--config.total_steps=1000"],
    "--config.optim.learning_rate=3e-3",
    *["--config.eval.every_steps=1000", "--config.checkpoint.every_steps=1000"],
]
PLAIN, MIXED = "--config.augment=pad_crop(3)", "--config.augment=pad_crop(3)|mixup(1.0)"
TAUGHT = [MIXED, "--config.distill.alpha=0.9", "--config.distill.temperature=2"]


def train(flags: list[str], path: Path) -> tuple[dict, dict]:
    """Run one command, and return its summary and its start record."""
    command = [sys.executable, str(ROOT / "launch.py"), *flags, "--workdir", str(path)]
    process = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    if process.returncode:
        raise SystemExit(f"{shlex.join(command)} failed:\n{process.stderr}")
    (start,) = json.loads((path / "run.json").read_text())
    return json.loads((path / "summary.json").read_text()), start


def main():
    """Measure, print a line for each run, and write the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds")
    parser.add_argument("--output", type=Path, help="write the result to this JSON file")
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        teacher, start = train(TEACHER, folder / "teacher")
        print(f"teacher: {teacher['test_accuracy']:.2%}", flush=True)
        taught = [*TAUGHT, f"--config.distill.teacher={folder}/teacher"]
        arms = {"labels": [PLAIN], "labels_mixed": [MIXED], "teacher": taught}
        accuracies = {arm: [] for arm in arms}
        for seed in range(flags.seeds):
            for arm, more in arms.items():
                run = [
                    *STUDENT,
                    *more,
                    f"--config.seed={seed}",
                    f"--config.data.subset_seed={seed}",
                ]
                summary, _ = train(run, folder / f"{arm}-{seed}")
                accuracies[arm].append(summary["test_accuracy"])
                print(f"seed {seed}, {arm}: {summary['test_accuracy']:.2%}", flush=True)
    alone = max(("labels", "labels_mixed"), key=lambda arm: sum(accuracies[arm]))
    gains = [b - a for a, b in zip(accuracies[alone], accuracies["teacher"], strict=True)]

    def spread(values):
        deviation = statistics.stdev(values) if len(values) > 1 else None
        return {"values": values, "mean": statistics.mean(values), "standard_deviation": deviation}

    result = {
        "command": f"python benchmarks/distillation.py --seeds {flags.seeds}",
        "teacher": shlex.join(["python", "launch.py", *TEACHER]),
        "student": shlex.join(["python", "launch.py", *STUDENT]),
        "arms": {
            "labels": PLAIN,
            "labels_mixed": MIXED,
            "teacher": shlex.join([*TAUGHT, "--config.distill.teacher=RUN"]),
        },
        "seeds": list(range(flags.seeds)),
        "parameters": {"teacher": teacher["parameters"], "student": summary["parameters"]},
        "teacher_test_accuracy": teacher["test_accuracy"],
        **{f"student_from_{arm}": spread(values) for arm, values in accuracies.items()},
        "gain": {"over": alone, **spread(gains)},
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
        "commit": start["commit"],
        "versions": start["versions"],
    }
    print(f"gain: {result['gain']['mean']:.2%} ± {result['gain']['standard_deviation'] or 0:.2%}")
    if flags.output:
        json_files.write_json(flags.output, result)


if __name__ == "__main__":
    main()
