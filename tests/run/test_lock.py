"""A run writes only into the directory that it locked; readers disturb no start and no save."""

import itertools
import shutil
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
import pytest
from test_owner import assert_like, command, contents, put, runs, saved, trained  # noqa: F401

from cv_jax.__main__ import main
from cv_jax.errors import InputError, RunError
from cv_jax.run import checkpoint, checkpoint_files, json_files, lock
from cv_jax.training import evaluate

# ---- Moved or replaced while it trains

MOMENTS = {
    "before a line": (json_files, "append_line"),
    "before a save": (checkpoint.Checkpoints, "save"),
    "while a save is written": (ocp.AsyncCheckpointer, "wait_until_finished"),
    "before the end": (checkpoint.Checkpoints, "close"),
}


def at(monkeypatch, owner, name, count, action):
    """Call `action` before the `count`-th call of a function."""
    function, calls = getattr(owner, name), itertools.count(1)

    def called(*arguments, **options):
        if next(calls) == count:
            action()
        return function(*arguments, **options)

    monkeypatch.setattr(owner, name, called)


def unfinished(file):
    """Whether a file is in an unfinished checkpoint, which nobody reads."""
    return ".writing" in str(file)


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_run_that_is_moved_stops_and_leaves_its_successor_alone(
    moment,
    tmp_path,
    trained,  # noqa: F811
    data_dir,
    monkeypatch,
    capsys,
):
    path, before = tmp_path / "run", {}

    def replace():
        path.rename(tmp_path / "moved")
        shutil.copytree(trained / "other", path, dirs_exist_ok=True)  # a thread still writes
        before.update({file: x for file, x in contents(path).items() if not unfinished(file)})

    at(monkeypatch, *MOMENTS[moment], 1 if "end" in moment else 3, replace)
    assert command(path, data_dir) == 1
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("error: ")]
    assert f"--workdir={path} was moved, removed or replaced while it was in use" in line
    monkeypatch.undo()
    time.sleep(0.2)  # for a thread that still writes
    now = contents(path)
    assert {file: now.pop(file) for file in before} == before
    assert all(map(unfinished, now))
    assert command(path, data_dir, seed=1) == 0
    assert_like(path, trained / "other")
    assert command(tmp_path / "moved", data_dir) == 0
    assert_like(tmp_path / "moved", trained / "own")


def test_a_run_that_is_moved_away_makes_no_second_folder(tmp_path, data_dir, monkeypatch, capsys):
    path = tmp_path / "run"
    at(monkeypatch, *MOMENTS["before a save"], 3, lambda: path.rename(tmp_path / "moved"))
    assert command(path, data_dir) == 1
    assert "was moved, removed or replaced" in capsys.readouterr().err
    assert all(map(unfinished, contents(path)))  # of a thread of orbax


def test_an_evaluation_is_not_written_to_another_run(
    runs,  # noqa: F811
    data_dir,
    monkeypatch,
    capsys,
):
    path = runs / "own"

    def replace():
        path.rename(runs / "moved")
        (runs / "twin").rename(path)

    at(monkeypatch, evaluate, "make_evaluator", 1, replace)
    assert command(path, data_dir, "--evaluate") == 1
    assert "was moved or replaced while it was evaluated" in capsys.readouterr().err
    assert not (path / "evaluation.json").exists()


# ---- Between a check and the lock


def before_the_lock(monkeypatch, action):
    at(monkeypatch, lock, "claimed", 1, action)


def test_a_run_that_another_process_starts_before_the_lock_is_checked(
    tmp_path,
    trained,  # noqa: F811
    data_dir,
    monkeypatch,
    capsys,
):
    path = tmp_path / "run"
    before_the_lock(monkeypatch, lambda: shutil.copytree(trained / "other", path))
    assert command(path, data_dir) == 2
    assert "was started with another config; " in capsys.readouterr().err
    for source, text in contents(trained / "other").items():
        if source.name != "lock":
            assert (path / source.relative_to(trained / "other")).read_bytes() == text


@pytest.mark.slow
def test_initial_weights_that_are_needed_only_under_the_lock_are_loaded(
    tmp_path,
    trained,  # noqa: F811
    data_dir,
    monkeypatch,
):
    flags = {"init_from": trained / "other", "total_steps": 2}
    for name in ("reference", "run"):
        assert command(tmp_path / name, data_dir, **flags) == 0
    (tmp_path / "run/summary.json").unlink()
    before_the_lock(monkeypatch, lambda: shutil.rmtree(tmp_path / "run/checkpoints"))
    assert command(tmp_path / "run", data_dir, **flags) == 0
    assert_like(tmp_path / "run", tmp_path / "reference")


@pytest.mark.slow
def test_a_trial_of_one_program_is_checked_under_its_lock(
    tmp_path,
    trained,  # noqa: F811
    load_config,
    monkeypatch,
):
    from cv_jax.sweep import vmapped

    config = load_config("mlp", {"total_steps": 2, "batch_size": 16})
    before_the_lock(monkeypatch, lambda: shutil.copytree(trained / "other", tmp_path / "trial"))
    with pytest.raises(InputError, match="was started with another config"):
        vmapped.run({tmp_path / "trial": config}, print)


# ---- The lock itself


def test_a_lock_that_is_replaced_while_it_is_taken_is_taken_again(tmp_path, monkeypatch):
    at(monkeypatch, lock.fcntl, "flock", 1, lambda: (tmp_path / "run/lock").unlink())
    with lock.claimed(tmp_path / "run") as claim:
        claim.check()
        with pytest.raises(InputError, match="in use by process"), lock.claimed(tmp_path / "run"):
            pass
        (tmp_path / "run/lock").unlink()
        with pytest.raises(RunError, match="moved, removed or replaced"):
            claim.check()


READER = """
import sys, pathlib
from cv_jax.run import lock
print("ready", flush=True)
while True:
    lock.in_use(pathlib.Path(sys.argv[1]))
"""


def test_readers_of_the_lock_make_no_start_fail(tmp_path):
    """Without waiting, one start in 400 failed."""
    (tmp_path / "lock").touch()
    command = [sys.executable, "-c", READER, str(tmp_path)]
    readers = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(2)]
    try:
        for reader in readers:
            assert reader.stdout.readline() == b"ready\n"
        for _ in range(2000):
            with lock.claimed(tmp_path):
                pass
        with lock.claimed(tmp_path):
            started = time.monotonic()
            with pytest.raises(InputError, match="is in use by process"), lock.claimed(tmp_path):
                pass
            assert time.monotonic() - started < 5
    finally:
        for reader in readers:
            reader.kill()
            reader.communicate()


# ---- Reading while a run saves

SAVER = """
import pathlib, sys
import jax.numpy as jnp
from cv_jax.run.checkpoint import Checkpoints
checkpoints = Checkpoints(pathlib.Path(sys.argv[1]) / "checkpoints", keep_last=1)
for step in range(1, 100000):
    checkpoints.save(step, {str(i): jnp.full(50, step) for i in range(9)}, {}, "")
"""


def test_reading_is_possible_whatever_is_saved_at_that_moment(tmp_path, capsys):
    saver = subprocess.Popen([sys.executable, "-c", SAVER, str(tmp_path)], stderr=subprocess.PIPE)
    folder, steps = tmp_path / "checkpoints", set()
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    leaf = jax.ShapeDtypeStruct((50,), jnp.int32, sharding=place)
    target = {str(i): leaf for i in range(9)}
    try:
        while not checkpoint.finished(folder):
            assert saver.poll() is None
            time.sleep(0.05)
        for _ in range(40):
            assert main(["verify", str(tmp_path)]) == 0
            arrays, step = checkpoint.read_newest(folder, lambda name: True)
            assert all((array == step).all() for array in arrays.values())
            for arrays, at_step in checkpoint.read_each(folder, lambda name: True):
                assert all((array == at_step).all() for array in arrays.values())
            state, at_step = checkpoint.Checkpoints(folder).restore(target, repair=False)
            assert all((array == at_step).all() for array in state.values())
            steps.add(step)
        assert saver.poll() is None
    finally:
        saver.kill()
        _, err = saver.communicate()
    assert len(steps) > 5, err


def test_a_checkpoint_that_is_deleted_while_it_is_read_is_not_taken(tmp_path, monkeypatch):
    """A missing file of arrays reads as zeros."""
    checkpoints = checkpoint.Checkpoints(tmp_path, keep_last=9)
    for step in (1, 2):
        checkpoints.save(step, {"a": jnp.full(50, step)}, {})
    checkpoints.close()
    at(monkeypatch, checkpoint, "_read", 1, lambda: shutil.rmtree(tmp_path / "2"))
    arrays, step = checkpoint.read_newest(tmp_path, lambda name: True)
    assert step == 1
    assert (arrays["a"] == 1).all()
    monkeypatch.undo()
    at(monkeypatch, checkpoint_files, "digests", 1, lambda: shutil.rmtree(tmp_path / "1"))
    assert checkpoint_files.examined(tmp_path / "1") == ""


def test_the_owner_of_a_lock_is_named_also_by_a_damaged_file(tmp_path):
    with lock.claimed(tmp_path):
        (tmp_path / "lock").write_bytes(b"\xff\xfe")
        with pytest.raises(InputError, match="is in use by \N{REPLACEMENT CHARACTER}"):
            lock.claimed(tmp_path).__enter__()
