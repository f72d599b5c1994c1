"""What masked pre-training is worth with five labelled digits of each class.

    python benchmarks/masked_autoencoder.py --workdir runs/mae_few_labels \\
        --output benchmarks/results/experiments/mae

A masked autoencoder learns from all 1,438 training images without labels. Its encoder is then
fine-tuned on 50 labelled images, or probed: logistic regression on its frozen features, the class
token or the mean over all tokens. Controls: the same ViT from scratch with the steps of the
fine-tuning, and with the multiply-adds of pre-training and fine-tuning together; the probe on
random features and on raw pixels. Pre-training, fine-tuning and probe are repeated with other
masking ratios, and with three other settings of the pre-training. All arms have the same 50 images
in a seed. Each run is `python launch.py` in its own process; finished runs in `--workdir` are not
repeated, and the result is written after each run.
"""

import argparse
import csv
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
from pathlib import Path

import scipy.stats

from cv_jax.run import json_files

ROOT = Path(__file__).resolve().parent.parent
SIZE = ["--config.model.width=64", "--config.model.depth=4", "--config.model.num_heads=4"]
PRETRAIN = [
    *["--config", "configs/mae.py", *SIZE],
    *["--config.model.decoder_width=48", "--config.model.decoder_depth=1"],
    *["--config.total_epochs=30", "--config.eval.every_epochs=10"],
    "--config.checkpoint.every_epochs=30",
]
FEW = ["--config.data.per_class=5", "--config.batch_size=50"]
STEPS = 200
CLASSIFY = [
    *["--config", "configs/mae_finetune.py", *SIZE, *FEW, "--config.augment=pad_crop(3)"],
    *["--config.optim.layer_decay=none", "--config.schedule.warmup_epochs=none"],
    *["--config.schedule.warmup_steps=20", "--config.eval.every_steps=100"],
    "--config.checkpoint.every_percent=100",
]
# The best of 2e-3, 8e-3 and 2e-2 with seed 0; fine-tuning was tried with 8e-3 only.
SCRATCH = ["--config.optim.learning_rate=2e-2"]
PROBE = ["--config.total_steps=1", "--config.schedule.warmup_epochs=none"]
ENCODER_PROBE = [
    *["--config", "configs/mae_probe.py", *SIZE, *FEW, *PROBE],
    "--config.eval.extra=logistic_regression(name='token')"
    "|logistic_regression(name='mean', feature='norm')",
]
PIXEL_PROBE = [
    *["--config", "configs/linear.py", *FEW, *PROBE],
    "--config.eval.extra=logistic_regression(name='pixels')",
]
PAPER = "0.75"
# Name of a setting → flags of its pre-training; names of numbers are masking ratios.
SETTINGS = {
    PAPER: [],
    **{ratio: [f"--config.model.mask_ratio={ratio}"] for ratio in ("0.25", "0.5", "0.9")},
    "long": ["--config.total_epochs=120"],
    "raw": ["--config.model.norm_pix_loss=false"],
    "deep": ["--config.model.decoder_depth=4"],
}
# Arm → (arm, control) of a comparison of test accuracies.
COMPARISONS = {
    "fine-tuned - scratch, same steps": ("finetune", "scratch"),
    "fine-tuned - scratch, same multiply-adds": ("finetune", "scratch_long"),
    "probe - random features, class token": ("probe_token", "random_token"),
    "probe - random features, mean": ("probe_mean", "random_mean"),
    "probe, class token - probe of pixels": ("probe_token", "pixels_pixels"),
    "probe, mean - probe of pixels": ("probe_mean", "pixels_pixels"),
}


class Runs:
    """The runs of a folder, each made once."""

    def __init__(self, folder: Path):
        self.folder, self.start = folder, {}

    def make(self, name: str, flags: list[str]) -> dict:
        """Return the summary of a run, with the last metric line of each split as "lines"."""
        path = self.folder / name
        command = [sys.executable, str(ROOT / "launch.py"), *flags, "--workdir", str(path)]
        if not (path / "summary.json").exists():
            process = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
            if process.returncode:
                raise SystemExit(f"{shlex.join(command)} failed:\n{process.stderr}")
        self.start = json.loads((path / "run.json").read_text())[-1]
        lines = map(json.loads, (path / "metrics.jsonl").read_text().splitlines())
        summary = json.loads((path / "summary.json").read_text())
        return {**summary, "lines": {line["split"]: line for line in lines}}


def main():
    """Measure, print a line for each run, and write the files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds")
    names = ",".join(SETTINGS)
    parser.add_argument("--settings", default=names, help=f"of {names}, separated by commas")
    parser.add_argument("--workdir", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--output", type=Path, required=True, help="folder of the results")
    flags = parser.parse_args()
    settings = flags.settings.split(",")
    runs, rows = Runs(flags.workdir.resolve()), []
    for setting, seed in [(setting, seed) for setting in settings for seed in range(flags.seeds)]:
        for row in measure(runs, setting, seed):
            rows.append({"setting": setting, "seed": seed, **row})
            print(" ".join(f"{key}={value}" for key, value in rows[-1].items()), flush=True)
            write(flags, rows, runs.start)


def measure(runs: Runs, setting: str, seed: int):
    """Yield arm, accuracy and multiply-adds of one setting and seed; of 0.75 the controls, too."""
    seeds = [f"--config.seed={seed}", f"--config.data.subset_seed={seed}"]
    name = f"{setting}-{seed}"
    autoencoder = runs.make(f"pretrain-{name}", [*PRETRAIN, *SETTINGS[setting], seeds[0]])
    init = f"--config.init_from={runs.folder}/pretrain-{name}"
    cost = autoencoder["step"] * 64 * autoencoder["multiply_adds"]
    yield {"arm": "pretrain", "loss": autoencoder["test_loss"], "multiply_adds": cost}

    def classify(arm, steps, *more):
        every = [f"--config.total_steps={steps}", *seeds]
        found = runs.make(f"{arm}-{name}", [*CLASSIFY, *every, *more])
        adds = steps * 50 * found["multiply_adds"]
        return adds, {"arm": arm, "accuracy": found["test_accuracy"], "steps": steps}

    own, row = classify("finetune", STEPS, init)
    yield {**row, "multiply_adds": cost + own}
    probes = [("probe", [*ENCODER_PROBE, init], ("token", "mean"))]
    if setting == PAPER:
        probes.append(("random", ENCODER_PROBE, ("token", "mean")))
        probes.append(("pixels", PIXEL_PROBE, ("pixels",)))
        for arm, steps in (("scratch", STEPS), ("scratch_long", STEPS + cost * STEPS // own)):
            adds, row = classify(arm, steps, *SCRATCH)
            yield {**row, "multiply_adds": adds}
    for arm, command, features in probes:
        found = runs.make(f"{arm}-{name}", [*command, *seeds])["lines"]
        for feature in features:
            line = found[feature]
            yield {"arm": f"{arm}_{feature}", "accuracy": line["accuracy"], "C": line["C"]}


def interval(values: list[float]) -> dict:
    """Mean, standard deviation and half width of the 95 % confidence interval (Student's t)."""
    found = {"values": values, "mean": statistics.mean(values)}
    if len(values) > 1:
        found["standard_deviation"] = statistics.stdev(values)
        t = scipy.stats.t.ppf(0.975, len(values) - 1)
        found["half_width_95"] = float(t * found["standard_deviation"] / len(values) ** 0.5)
    return found


def write(flags: argparse.Namespace, rows: list[dict], start: dict):
    """Write `runs.csv`, `result.json` and, with several ratios, `ratio.png`."""
    flags.output.mkdir(parents=True, exist_ok=True)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with open(flags.output / "runs.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)

    def values(arm, setting):
        found = [row for row in rows if row["arm"] == arm and row["setting"] == setting]
        return {row["seed"]: row["accuracy"] for row in found}

    settings = list(dict.fromkeys(row["setting"] for row in rows))
    arms = dict.fromkeys(row["arm"] for row in rows if "accuracy" in row)
    differences = {}
    for text, (arm, control) in COMPARISONS.items():
        ours, theirs = values(arm, PAPER), values(control, PAPER)
        both = [ours[seed] - theirs[seed] for seed in ours if seed in theirs]
        if both:
            differences[text] = interval(both)
    accuracies = {
        arm: {
            name: interval([*found.values()]) for name in settings if (found := values(arm, name))
        }
        for arm in arms
    }
    result = {
        "command": f"python benchmarks/masked_autoencoder.py --seeds {flags.seeds} "
        f"--settings {flags.settings} --workdir DIR --output DIR",
        "pretrain": shlex.join(["python", "launch.py", *PRETRAIN]),
        "finetune": shlex.join(["python", "launch.py", *CLASSIFY, "--config.init_from=PRETRAIN"]),
        "scratch": shlex.join(["python", "launch.py", *CLASSIFY, *SCRATCH]),
        "probe": shlex.join(["python", "launch.py", *ENCODER_PROBE]),
        "probe_pixels": shlex.join(["python", "launch.py", *PIXEL_PROBE]),
        "settings": {name: shlex.join(SETTINGS[name]) for name in settings},
        "differences": differences,
        "test_accuracies": accuracies,
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
        "commit": start["commit"],
        "versions": start["versions"],
    }
    json_files.write_json(flags.output / "result.json", result)
    ratios = [name for name in settings if name.startswith("0")]
    if len(ratios) > 1:
        draw(accuracies, sorted(ratios), flags.output / "ratio.png")


def draw(accuracies: dict, ratios: list[str], path: Path):
    """Draw test accuracy over the masking ratio, with 95 % confidence intervals."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.5, 4), dpi=100, layout="constrained")
    axis = figure.subplots()
    names = {"finetune": "fine-tuned", "probe_token": "probe of the class token"}
    names["probe_mean"] = "probe of the mean"
    for (arm, text), marker in zip(names.items(), "osD", strict=True):
        found = [
            (name, accuracies[arm][name]) for name in ratios if name in accuracies.get(arm, {})
        ]
        axis.errorbar(
            [100 * float(name) for name, _ in found],
            [100 * entry["mean"] for _, entry in found],
            [100 * entry.get("half_width_95", 0) for _, entry in found],
            marker=marker,
            capsize=3,
            label=text,
        )
    for arm, text, style in (
        ("scratch", "from scratch, same steps", "--"),
        ("scratch_long", "from scratch, same multiply-adds", ":"),
    ):
        if entry := accuracies.get(arm, {}).get(PAPER):
            axis.axhline(100 * entry["mean"], color="grey", linestyle=style, label=text)
    axis.set(xlabel="removed patches, %", ylabel="test accuracy, %")
    axis.grid(alpha=0.3)
    axis.legend()
    figure.savefig(path)


if __name__ == "__main__":
    main()
