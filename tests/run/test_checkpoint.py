"""Checkpoints: exact restores, detection of damage, and failed saves."""

import json
import os
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cv_jax.run import checkpoint
from cv_jax.run.checkpoint import CheckpointError, Checkpoints


def state_at(step):
    params = {"a": {"kernel": jnp.arange(600.0).reshape(20, 30) + step}, "b": jnp.float32(step)}
    return {
        "step": jnp.int32(step),
        "params": params,
        "opt_state": optax.adam(1e-3).init(params),
        "key": jax.random.key_data(jax.random.key(step)),
        "half": jnp.full((3,), step, jnp.bfloat16),
        "none": None,
    }


def target():
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), state_at(0)
    )


def assert_same(got, expected):
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def fill(folder, steps=(10, 20), **options):
    checkpoints = Checkpoints(folder, **options)
    for step in steps:
        checkpoints.save(step, state_at(step), {})
    checkpoints.close()
    return checkpoints


def test_a_restored_state_is_equal_bit_for_bit(tmp_path):
    fill(tmp_path)
    restored, step = Checkpoints(tmp_path).restore(target())
    assert step == 20
    assert_same(restored, state_at(20))


def test_restoring_without_checkpoints_returns_none(tmp_path):
    assert Checkpoints(tmp_path / "absent").restore(target()) is None


def test_a_save_is_not_affected_by_later_steps(tmp_path):
    step = jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s), donate_argnums=0)
    state = {"a": jnp.zeros((500, 1000))}
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, state, {})
    for _ in range(5):  # the saved buffers are donated and overwritten
        state = step(state)
    checkpoints.close()
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    goal = {"a": jax.ShapeDtypeStruct((500, 1000), jnp.float32, sharding=place)}
    restored, _ = Checkpoints(tmp_path).restore(goal)
    assert not restored["a"].any()


def test_the_newest_and_the_best_checkpoints_are_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep_last=2, keep_best=1)
    for step, accuracy in enumerate([0.5, 0.9, 0.7, None, 0.8, 0.6]):
        metrics = {} if accuracy is None else {"accuracy": accuracy}
        checkpoints.save(step, state_at(step), metrics)
    checkpoints.close()
    assert checkpoints.steps() == [1, 4, 5]
    assert not list(tmp_path.glob("*.*"))


def files_of_a_checkpoint(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


@pytest.fixture(scope="module")
def intact(tmp_path_factory):
    folder = tmp_path_factory.mktemp("intact")
    fill(folder)
    return folder


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    path.write_bytes(data)


def truncate(path):
    os.truncate(path, path.stat().st_size // 2)


@pytest.mark.parametrize("harm", [flip, truncate, os.remove])
def test_damage_in_any_file_leads_to_the_previous_checkpoint(tmp_path, intact, harm, caplog):
    for name in files_of_a_checkpoint(intact / "20"):
        folder = tmp_path / name.replace("/", "_")
        shutil.copytree(intact, folder)
        if (folder / "20" / name).stat().st_size == 0 and harm is not os.remove:
            (folder / "20" / name).write_bytes(b"x")
        else:
            harm(folder / "20" / name)
        caplog.clear()
        restored, step = Checkpoints(folder).restore(target())
        assert step == 10, name
        assert_same(restored, state_at(10))
        # The checkpoint is moved with the reason, so the run can save step 20 again.
        assert "20 is moved aside" in caplog.text
        reason = (folder / "damaged" / "20" / "REASON.txt").read_text()
        # Damaged digests report another file.
        assert name in reason or name == "digests.json"
        assert checkpoint.finished(folder) == [10]


def test_an_added_file_is_damage(tmp_path):
    fill(tmp_path)
    (tmp_path / "20" / "state" / "more").write_text("")
    assert checkpoint.damage(tmp_path / "20") == "state/more does not belong to the checkpoint"
    assert Checkpoints(tmp_path).restore(target())[1] == 10


def test_damage_in_all_checkpoints_is_an_error(tmp_path):
    fill(tmp_path)
    for step in (10, 20):
        flip(tmp_path / str(step) / "meta.json")
    with pytest.raises(CheckpointError, match="no checkpoint in .* is sound: all 2 are damaged"):
        Checkpoints(tmp_path).restore(target())


def test_an_unfinished_checkpoint_is_moved_aside(tmp_path, caplog):
    fill(tmp_path)
    os.rename(tmp_path / "20", tmp_path / f"30{checkpoint.WRITING}")
    assert Checkpoints(tmp_path).restore(target())[1] == 10
    assert "unfinished: the run ended while it was being written" in caplog.text
    assert (tmp_path / "damaged" / "unfinished" / "REASON.txt").is_file()


def test_restoring_without_repair_changes_no_file(tmp_path, caplog):
    fill(tmp_path)
    flip(tmp_path / "20" / "meta.json")
    (tmp_path / f"30{checkpoint.WRITING}").mkdir()
    before = sorted(str(p) for p in tmp_path.rglob("*"))
    assert Checkpoints(tmp_path).restore(target(), repair=False)[1] == 10
    assert sorted(str(p) for p in tmp_path.rglob("*")) == before
    assert "20 is skipped: meta.json differs" in caplog.text


def test_a_state_of_another_structure_is_an_error(tmp_path):
    fill(tmp_path)
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    other = {"other": jax.ShapeDtypeStruct((3,), jnp.float32, sharding=place)}
    with pytest.raises(CheckpointError, match="its arrays do not match this run's state"):
        Checkpoints(tmp_path).restore(other)


def test_a_state_of_another_shape_is_an_error(tmp_path):
    fill(tmp_path)
    goal = target()
    leaf = goal["params"]["b"]
    goal["params"]["b"] = jax.ShapeDtypeStruct((2,), leaf.dtype, sharding=leaf.sharding)
    with pytest.raises(CheckpointError, match="its arrays do not match this run's state"):
        Checkpoints(tmp_path).restore(goal)


def test_a_failed_save_keeps_the_previous_checkpoint(tmp_path, monkeypatch):
    fill(tmp_path)
    checkpoints = Checkpoints(tmp_path)

    def full(path, text):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "write_synced", full)
    checkpoints.save(30, state_at(30), {})
    with pytest.raises(CheckpointError, match="No space left on device; checkpoint 20 is intact"):
        checkpoints.wait()
    monkeypatch.undo()
    assert_same(Checkpoints(tmp_path).restore(target())[0], state_at(20))


FULL_DISK = """
import gc, logging, pathlib, resource, signal, sys
import jax, jax.numpy as jnp
from cv_jax.run.checkpoint import CheckpointError, Checkpoints

logging.basicConfig()
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
state = {str(i): jnp.full((100, 100), i) for i in range(40)}
checkpoints = Checkpoints(pathlib.Path(sys.argv[1]))
checkpoints.save(1, state, {})
checkpoints.wait()
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
for step in range(2, 6):
    try:
        checkpoints.save(step, state, {})
        checkpoints.wait()
    except CheckpointError as error:
        print(error)
    gc.collect()
"""


def test_concurrent_write_failures_give_one_message(tmp_path):
    """Forty arrays fail; one error is reported, and there are no warnings of asyncio."""
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path)]
    process = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = process.stdout.splitlines()
    assert [line.split(" could not")[0] for line in lines] == [
        f"checkpoint {i}" for i in (2, 3, 4, 5)
    ]
    assert all(line.endswith("checkpoint 1 is intact") for line in lines)
    assert process.stderr == ""


def test_a_checkpoint_stores_the_metrics_of_its_step(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(3, state_at(3), {"accuracy": 0.25})
    checkpoints.close()
    assert checkpoint.read_metrics(tmp_path / "3") == {"accuracy": 0.25}
    assert json.loads((tmp_path / "3" / "meta.json").read_text())["step"] == 3
