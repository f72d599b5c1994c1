"""The run directory identifies its run, also after damage."""

import json
import os

import pytest

from cv_jax.errors import InputError
from cv_jax.run import json_files, lock, record_damage, workdir


@pytest.fixture
def started(tmp_path, load_config):
    """A run directory with one start, and `start()`, which checks it and records another start."""
    config = load_config("mlp")

    def start():
        workdir.check(tmp_path / "run", config, {"train": {}})
        with lock.claimed(tmp_path / "run"):
            workdir.repair(tmp_path / "run")
            workdir.record_start(tmp_path / "run", config, {"train": {}}, 0)

    start()
    return tmp_path / "run", start


def flip_bit(file, index):
    data = bytearray(file.read_bytes())
    data[index] ^= 4
    file.write_bytes(data)


def test_a_damaged_config_is_written_again_from_the_starts(started):
    path, start = started
    content = (path / "config.json").read_bytes()
    for damage in (lambda file: flip_bit(file, 80), os.unlink, lambda file: os.truncate(file, 9)):
        damage(path / "config.json")
        start()
        assert (path / "config.json").read_bytes() == content
    assert len(workdir.read_starts(path)) == 4


def link_to_itself(file):
    file.unlink()
    file.symlink_to(file.name)


@pytest.mark.parametrize("damage", [link_to_itself, lambda file: (file.unlink(), file.mkdir())])
def test_a_lock_that_is_not_a_file_is_an_error(started, damage):
    path, start = started
    damage(path / "lock")
    with pytest.raises(InputError, match=f"{path}/lock is not a file; remove it"):
        start()


@pytest.mark.parametrize("damage", [lambda file: flip_bit(file, 200), link_to_itself])
def test_damaged_starts_are_renamed(started, caplog, damage):
    path, start = started
    damage(path / "run.json")
    start()
    assert "run.json is damaged and renamed to run.json.damaged" in caplog.text
    assert os.path.lexists(path / "run.json.damaged")
    assert len(workdir.read_starts(path)) == 1


def test_a_run_without_sound_config_and_starts_is_an_error(started):
    path, start = started
    flip_bit(path / "config.json", 80)
    flip_bit(path / "run.json", 200)
    with pytest.raises(InputError, match="config.json is damaged .* give another --workdir"):
        start()


def test_a_run_may_start_after_a_kill_before_the_first_record(tmp_path, load_config):
    (tmp_path / "run" / ".writing-x").mkdir(parents=True)
    (tmp_path / "run" / ".writing-x" / "config.json").write_text("{")
    (tmp_path / "run" / "lock").write_bytes(b"\xff")
    workdir.check(tmp_path / "run", load_config("mlp"), {})
    (tmp_path / "run" / "thesis.tex").write_text("")
    with pytest.raises(InputError, match="holds files but no run"):
        workdir.check(tmp_path / "run", load_config("mlp"), {})


def test_lines_that_a_run_writes_again_are_no_damage(started):
    path, _ = started
    (path / "metrics.jsonl").write_text('{"step": 1}\n')
    kept = '{"step": 1}\n{"step": 2}\n'
    assert len(record_damage.damage(path, kept)) == 1
    with lock.claimed(path):
        assert record_damage.damage(path, kept) == []


def test_damage_lists_every_damaged_file(started):
    path, _ = started
    assert record_damage.damage(path, "") == []
    (path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}\n')
    assert record_damage.damage(path, '{"step": 1}\n') == []
    (path / "metrics.jsonl").write_text('{"step": 3}\n')
    (path / "summary.json").write_text(json.dumps({"step": 3}))
    json_files.write_record(path / "evaluation-1.json", {"a": 1})
    flip_bit(path / "evaluation-1.json", 10)
    found = [line.partition(":")[0] for line in record_damage.damage(path, '{"step": 1}\n')]
    names = ["summary.json", "evaluation-1.json", "metrics.jsonl"]
    assert found == [str(path / name) for name in names]
