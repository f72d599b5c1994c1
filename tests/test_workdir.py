"""What a run leaves on disk is read as it was written, or said to be damaged."""

import json
import os

import pytest

from cv_jax import workdir
from cv_jax.errors import InputError, RunError
from cv_jax.workdir import Damaged

CONFIG = {"model.name": "mlp", "seed": 3, "rate": 1e-3, "sizes": (1, 2), "none": None, "é": "ß"}


def flipped(data: bytes):
    """The bytes with each of their bits turned over, one after the other."""
    for place in range(len(data)):
        for bit in range(8):
            yield data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1 :]


def test_a_record_comes_back(tmp_path):
    workdir.write_record(tmp_path / "a.json", CONFIG)
    assert workdir.read_record(tmp_path / "a.json") == {**CONFIG, "sizes": [1, 2]}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_any_flipped_bit_and_any_cut_is_noticed(tmp_path):
    file = tmp_path / "a.json"
    workdir.write_record(file, CONFIG)
    whole = file.read_bytes()
    for wrong in [*flipped(whole), *(whole[:size] for size in range(len(whole)))]:
        file.write_bytes(wrong)
        with pytest.raises(Damaged):
            workdir.read_record(file)


@pytest.mark.parametrize("text", ["[]", "3", "{}", '{"sha256": 1}', "[" * 100000, '{"a": NaN}'])
def test_what_is_no_record_is_damaged(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(Damaged):
        workdir.read_record(tmp_path / "a.json")


def test_a_record_that_cannot_be_read_is_damaged(tmp_path):
    (tmp_path / "a.json").mkdir()
    os.symlink("b.json", tmp_path / "b.json")
    for name in ("a.json", "b.json"):
        with pytest.raises(Damaged):
            workdir.read_record(tmp_path / name)
        with pytest.raises(RunError, match="a.json cannot be written: Is a directory"):
            workdir.write_record(tmp_path / "a.json", CONFIG)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "b.json"]


def lines_of(tmp_path, text, kept):
    (tmp_path / "metrics.jsonl").write_text(text)
    return workdir.Lines(tmp_path / "metrics.jsonl", kept)


def test_a_run_goes_back_to_the_lines_of_its_checkpoint(tmp_path, caplog):
    kept = '{"step": 1}\n'
    for later in ('{"step": 2}\n', '{"st', ""):
        lines = lines_of(tmp_path, kept + later, kept)
        assert (tmp_path / "metrics.jsonl").read_text() == kept
    assert not caplog.text
    lines.append({"step": 2, "loss": 0.5})
    assert lines.values() == [{"step": 1}, {"step": 2, "loss": 0.5}]
    assert (tmp_path / "metrics.jsonl").read_text() == lines.text


def test_any_damage_to_its_lines_is_told_and_put_right(tmp_path, caplog):
    kept = '{"step": 1, "loss": 0.5}\n'
    for wrong in [*flipped(kept.encode()), kept[:-1].encode(), b""]:
        (tmp_path / "metrics.jsonl").write_bytes(wrong)
        caplog.clear()
        workdir.Lines(tmp_path / "metrics.jsonl", kept)
        assert "metrics.jsonl is damaged and written again" in caplog.text
        assert (tmp_path / "metrics.jsonl").read_text() == kept


def test_damage_under_a_running_process_is_put_right_at_the_end(tmp_path, caplog):
    lines = lines_of(tmp_path, "", "")
    lines.append({"step": 1})
    (tmp_path / "metrics.jsonl").write_text('{"step": 3}\n')
    lines.append({"step": 2})
    lines.restore()
    assert "is damaged and written again" in caplog.text
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1}\n{"step": 2}\n'


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
    workdir.write_record(path / "evaluation-1.json", {"a": 1})
    flip(path / "evaluation-1.json", 10)
    found = [line.partition(":")[0] for line in workdir.damage(path, '{"step": 1}\n')]
    names = ["summary.json", "evaluation-1.json", "metrics.jsonl"]
    assert found == [str(path / name) for name in names]
