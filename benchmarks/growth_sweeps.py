"""Planning, resuming and reporting a sweep; a part of `benchmarks.growth`.

The finished trials are copies of one run directory that the training code wrote, with the learning
rate and the seed of their points; nothing is trained.
"""

import shutil
from pathlib import Path

CONFIG = '''"""A small network on the digits; its sweep has {count} points."""

from cv_jax import config


def get_config(arg=""):
    c = config.default(arg or "digits", "linear")
    c.batch_size = 128
    c.total_epochs = 1.0
    c.eval.every_epochs = 0.1
    c.log.every_steps = 1
    return c


def sweep():
    for i in range({settings}):
        for seed in range({seeds}):
            yield {{"optim.learning_rate": 1e-5 * (1 + i), "seed": seed}}
'''
SEEDS = 5


def write_config(folder: Path, count: int) -> Path:
    """Write a config file with a sweep of `count` points, five seeds of every setting."""
    file = folder / "growth.py"
    seeds = SEEDS if count % SEEDS == 0 else 1
    file.write_text(CONFIG.format(count=count, settings=count // seeds, seeds=seeds))
    return file


def one_run(file: Path, folder: Path) -> Path:
    """Write the files of a finished run without training it; return its directory."""
    import numpy as np

    from cv_jax import config as configs
    from cv_jax.training import experiment

    config = configs.load(str(file), {"data.cache": "none", "mesh.devices": "1"})
    parts = experiment.build(config)
    path = folder / "run"
    path.mkdir()
    record = parts.record(path)
    record.start(0, None)
    record.open_writers(print)
    for step in range(1, parts.total_steps + 1):
        sums = {"loss": np.float32(64), "count": np.int32(128), "correct": np.int32(97)}
        record.settle(step, {"loss": np.float32(1), "sums": sums}, 0.01 * step)
        scores = {"loss": 1.0, "accuracy": 0.5, "correct": 180, "count": 360}
        record.evaluated(step, "test", scores)
    record.save(parts.total_steps, parts.init()())
    record.close(0)
    record.write_summary(*parts.sizes)
    return path


def finish_all(file: Path, place: Path) -> None:
    """Write a sweep directory whose trials have all finished, as copies of one run."""
    from cv_jax.run import json_files, starts
    from cv_jax.sweep import folder as folders
    from cv_jax.sweep import points

    run, folder, sweep = one_run(file, place), place / "sweep", points.read(str(file), {})
    config = json_files.read_record(run / "config.json")
    (start,) = starts.read_starts(run)
    summary = json_files.read_record(run / "summary.json")
    folder.mkdir()
    folders.write(folder, sweep)
    for point in sweep.points:
        path = folder / point.name
        copied = f"checkpoints/{summary['step']}/metrics.jsonl"
        (path / copied).parent.mkdir(parents=True)
        for name in ("metrics.jsonl", "timing.jsonl", copied):
            shutil.copyfile(run / name, path / name)
        own = {**config, **point.overrides}
        command = ["launch.py", *sweep.command(point, path)]
        began = json_files.sealed({**start, "config": own, "command": command})
        json_files.write_record(path / "config.json", own)
        json_files.write_json(path / "run.json", [began])
        seed = point.overrides["seed"]
        json_files.write_record(path / "summary.json", {**summary, "seed": seed})


# ---- What is measured


def plan(file: Path, folder: Path) -> list:
    """Check all points as `launch.py --sweep` does before the first trial; return the trials."""
    from cv_jax.sweep import folder as folders
    from cv_jax.sweep import points, trials

    sweep = points.read(str(file), {})
    folders.check(folder, sweep)
    return trials.prepare(sweep, folder, ["python", "launch.py"], lambda flags: None)


def list_points(file: Path, folder: Path) -> None:
    """Make the table of `--dry_run`."""
    from cv_jax.sweep import points, trials

    trials.listing(points.read(str(file), {}), folder)


def resume(file: Path, folder: Path) -> None:
    """Start a sweep again whose trials have all finished."""
    from cv_jax.sweep import local, main, slots
    from cv_jax.sweep.display import Board

    todo = plan(file, folder)
    share = slots.Slot("slot 0", {}, ())
    outcomes = local.run(iter(todo), [share], folder, Board(len(todo), 1))
    if main.report(outcomes, len(todo), folder):
        raise SystemExit(f"not all trials of {folder} have finished")


def report(file: Path, folder: Path) -> None:
    """Write the report of a sweep, without the pages of its trials."""
    from cv_jax import __main__ as program

    if program.main(["report", str(folder), "--no-pages"]):
        raise SystemExit(f"the report of {folder} failed")
