"""JSON files: round trips, detection of damage, and repair of metric lines."""

import os
import tracemalloc

import pytest

from cv_jax.errors import RunError
from cv_jax.run import json_files
from cv_jax.run.json_files import Damaged

CONFIG = {"model.name": "mlp", "seed": 3, "rate": 1e-3, "sizes": (1, 2), "none": None, "é": "ß"}


def flipped(data: bytes):
    """Yield copies of the data with one flipped bit each."""
    for place in range(len(data)):
        for bit in range(8):
            yield data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1 :]


def test_a_record_survives_a_round_trip(tmp_path):
    json_files.write_record(tmp_path / "a.json", CONFIG)
    assert json_files.read_record(tmp_path / "a.json") == {**CONFIG, "sizes": [1, 2]}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_any_flipped_bit_and_any_truncation_is_detected(tmp_path):
    file = tmp_path / "a.json"
    json_files.write_record(file, CONFIG)
    whole = file.read_bytes()
    for wrong in [*flipped(whole), *(whole[:size] for size in range(len(whole)))]:
        file.write_bytes(wrong)
        with pytest.raises(Damaged):
            json_files.read_record(file)


@pytest.mark.parametrize("text", ["[]", "3", "{}", '{"sha256": 1}', "[" * 100000, '{"a": NaN}'])
def test_other_json_is_damaged(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(Damaged):
        json_files.read_record(tmp_path / "a.json")


def test_an_unreadable_record_is_damaged(tmp_path):
    (tmp_path / "a.json").mkdir()
    os.symlink("b.json", tmp_path / "b.json")
    for name in ("a.json", "b.json"):
        with pytest.raises(Damaged):
            json_files.read_record(tmp_path / name)
        with pytest.raises(RunError, match="a.json cannot be written: Is a directory"):
            json_files.write_record(tmp_path / "a.json", CONFIG)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "b.json"]


def lines_of(tmp_path, text, kept):
    (tmp_path / "metrics.jsonl").write_text(text)
    return json_files.Lines(tmp_path / "metrics.jsonl", kept)


def test_a_restart_drops_the_lines_after_its_checkpoint(tmp_path, caplog):
    kept = '{"step": 1}\n'
    for later in ('{"step": 2}\n', '{"st', ""):
        lines = lines_of(tmp_path, kept + later, kept)
        assert (tmp_path / "metrics.jsonl").read_text() == kept
    assert not caplog.text
    lines.append({"step": 2, "loss": 0.5})
    assert lines.values() == [{"step": 1}, {"step": 2, "loss": 0.5}]
    assert (tmp_path / "metrics.jsonl").read_text() == lines.text


def test_damage_before_the_checkpoint_is_logged_and_repaired(tmp_path, caplog):
    kept = '{"step": 1, "loss": 0.5}\n'
    for wrong in [*flipped(kept.encode()), kept[:-1].encode(), b""]:
        (tmp_path / "metrics.jsonl").write_bytes(wrong)
        caplog.clear()
        json_files.Lines(tmp_path / "metrics.jsonl", kept)
        assert "metrics.jsonl is damaged and written again" in caplog.text
        assert (tmp_path / "metrics.jsonl").read_text() == kept


def test_damage_during_a_run_is_repaired_at_the_end(tmp_path, caplog):
    lines = lines_of(tmp_path, "", "")
    lines.append({"step": 1})
    (tmp_path / "metrics.jsonl").write_text('{"step": 3}\n')
    lines.append({"step": 2})
    lines.restore()
    assert "is damaged and written again" in caplog.text
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1}\n{"step": 2}\n'


def test_reading_needs_no_more_memory_than_the_file(tmp_path):
    """The limits are 64 and 256 MiB."""
    json_files.write_record(tmp_path / "a.json", CONFIG)
    (tmp_path / "a.jsonl").write_text('{"step": 1}\n')
    tracemalloc.start()
    try:
        json_files.read_record(tmp_path / "a.json")
        assert json_files.read_lines(tmp_path / "a.jsonl") == [{"step": 1}]
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()
