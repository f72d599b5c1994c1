"""What a run leaves on disk tells which run it is, also after damage."""

import json
import os

import pytest

from cv_jax.errors import InputError
from cv_jax.run import json_files, workdir


@pytest.fixture
def started(tmp_path, load_config):
    """A run directory of one start, its config, and `start()`, which checks and starts it again."""
    config = load_config("mlp")

    def start():
        workdir.check(tmp_path / "run", config, {"train": {}})
        with workdir.claimed(tmp_path / "run"):
            workdir.repair(tmp_path / "run")
            workdir.record_start(tmp_path / "run", config, {"train": {}}, 0)

    start()
    return tmp_path / "run", start


def flip(file, place):
    data = bytearray(file.read_bytes())
    data[place] ^= 4
    file.write_bytes(data)


def test_a_damaged_config_is_written_again_from_the_starts(started):
    path, start = started
    whole = (path / "config.json").read_bytes()
    for harm in (lambda file: flip(file, 80), os.unlink, lambda file: os.truncate(file, 9)):
        harm(path / "config.json")
        start()
        assert (path / "config.json").read_bytes() == whole
    assert len(workdir.read_starts(path)) == 4


def circle(file):
    file.unlink()
    file.symlink_to(file.name)


@pytest.mark.parametrize("harm", [circle, lambda file: (file.unlink(), file.mkdir())])
def test_what_stands_in_place_of_the_lock_is_named(started, harm):
    path, start = started
    harm(path / "lock")
    with pytest.raises(InputError, match=f"{path}/lock is no file; take it away"):
        start()


@pytest.mark.parametrize("harm", [lambda file: flip(file, 200), circle])
def test_damaged_starts_are_set_aside(started, caplog, harm):
    path, start = started
    harm(path / "run.json")
    start()
    assert "run.json is damaged and set aside as run.json.damaged" in caplog.text
    assert os.path.lexists(path / "run.json.damaged")
    assert len(workdir.read_starts(path)) == 1


def test_if_both_are_damaged_the_run_is_refused(started):
    path, start = started
    flip(path / "config.json", 80)
    flip(path / "run.json", 200)
    with pytest.raises(InputError, match="config.json is damaged .* give another --workdir"):
        start()


def test_a_kill_before_the_first_record_leaves_a_directory_that_can_be_used(tmp_path, load_config):
    (tmp_path / "run" / ".writing-x").mkdir(parents=True)
    (tmp_path / "run" / ".writing-x" / "config.json").write_text("{")
    (tmp_path / "run" / "lock").write_bytes(b"\xff")
    workdir.check(tmp_path / "run", load_config("mlp"), {})
    (tmp_path / "run" / "thesis.tex").write_text("")
    with pytest.raises(InputError, match="holds files but no run"):
        workdir.check(tmp_path / "run", load_config("mlp"), {})


def test_damage_names_each_file(started):
    path, _ = started
    assert workdir.damage(path, "") == []
    (path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}\n')
    assert workdir.damage(path, '{"step": 1}\n') == []
    (path / "metrics.jsonl").write_text('{"step": 3}\n')
    (path / "summary.json").write_text(json.dumps({"step": 3}))
    json_files.write_record(path / "evaluation-1.json", {"a": 1})
    flip(path / "evaluation-1.json", 10)
    found = [line.partition(":")[0] for line in workdir.damage(path, '{"step": 1}\n')]
    names = ["summary.json", "evaluation-1.json", "metrics.jsonl"]
    assert found == [str(path / name) for name in names]
