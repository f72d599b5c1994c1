"""Writers of metric lines: no missing or repeated lines, and no effect of failures on a run."""

import importlib.util
import json
import struct
import sys
import time
import types

import pytest
from event_files import read_points
from PIL import Image

from cv_jax import config as configs
from cv_jax.errors import InputError
from cv_jax.run import writers

LINES = [
    {"step": 5, "split": "train", "loss": 2.0, "count": 10},
    {"step": 10, "split": "train", "loss": 1.5, "count": 10},
    {"step": 10, "split": "test", "loss": 1.25, "accuracy": 0.5},
    {"step": 15, "split": "train", "loss": 1.0, "count": 10},
]


def config_with(*names):
    config = configs.default(model="mlp")
    config.log.writers = names
    return config


def points_of(lines):
    return [
        (f"{line['split']}/{name}", line["step"], value)
        for line in lines
        for name, value in line.items()
        if name not in ("step", "split")
    ]


def test_a_missing_package_is_reported(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "wandb" else find(name)
    )
    writers.check(config_with("tensorboard"))
    with pytest.raises(InputError, match="wandb is not installed; pip install wandb"):
        writers.check(config_with("tensorboard", "wandb"))


def test_tensorboard_holds_exactly_the_lines_of_the_run(tmp_path):
    config = config_with("tensorboard")
    first = writers.open_writers(config, tmp_path, [], print)
    for line in LINES:
        first.write(line)  # the run is killed after these lines
    assert read_points(tmp_path / "tensorboard") == points_of(LINES)
    # The newest checkpoint is that of step 10: later lines are dropped.
    again = writers.open_writers(config, tmp_path, LINES[:3], print)
    assert read_points(tmp_path / "tensorboard") == points_of(LINES[:3])
    again.write({**LINES[3], "loss": 0.5})
    again.close(0)
    assert read_points(tmp_path / "tensorboard") == points_of(
        [*LINES[:3], {**LINES[3], "loss": 0.5}]
    )


def test_tensorboard_has_pictures(tmp_path):
    file = tmp_path / "picture.png"
    Image.new("RGB", (30, 20), "red").save(file)
    line = {"step": 10, "split": "test", "reconstruction": file}
    config = config_with("tensorboard")
    first = writers.open_writers(config, tmp_path, LINES[:1], print)
    first.write(line)
    picture = "test/reconstruction", 10, (30, 20, file.read_bytes())
    assert read_points(tmp_path / "tensorboard") == [*points_of(LINES[:1]), picture]
    writers.open_writers(config, tmp_path, [LINES[0], line], print).close(0)
    assert read_points(tmp_path / "tensorboard") == [*points_of(LINES[:1]), picture]


class Service:
    """A fake of the Weights & Biases service: run id → rows of increasing steps."""

    def __init__(self):
        self.runs, self.given, self.codes = {}, [], []

    def init(self, **given):
        self.given.append(given)
        rows, codes = self.runs.setdefault(given["id"], []), self.codes

        class Run:
            step = rows[-1][0] + 1 if rows else 0

            def log(self, row, step, commit):
                assert commit
                assert not rows or step > rows[-1][0]
                rows.append((step, row))

            def finish(self, exit_code):
                codes.append(exit_code)

        return Run()


@pytest.fixture
def service(monkeypatch):
    service = Service()
    module = types.ModuleType("wandb")
    module.init, module.Settings, module.Image = service.init, dict, lambda path: ["image", path]
    monkeypatch.setitem(sys.modules, "wandb", module)
    return service


ROWS = [
    (5, {"train/loss": 2.0, "train/count": 10}),
    (10, {"train/loss": 1.5, "train/count": 10, "test/loss": 1.25, "test/accuracy": 0.5}),
    (15, {"train/loss": 1.0, "train/count": 10}),
]


def test_wandb_gets_every_step_once(tmp_path, service):
    config = config_with("wandb")
    first = writers.open_writers(config, tmp_path, [], print)
    for line in LINES[:3]:
        first.write(line)  # the run is killed before the row of step 10 is complete
    (name,) = service.runs
    assert json.loads((tmp_path / "wandb.json").read_text())["id"] == name
    assert service.runs[name] == ROWS[:1]
    # Restarted from step 5, the run repeats step 10 and continues.
    again = writers.open_writers(config, tmp_path, LINES[:1], print)
    for line in LINES[1:]:
        again.write(line)
    again.close(75)
    assert service.runs == {name: ROWS}
    # Killed after step 15 was sent, and restarted from step 10: step 15 is not sent again.
    third = writers.open_writers(config, tmp_path, LINES[:3], print)
    third.write(LINES[3])
    third.close(0)
    assert service.runs == {name: ROWS}
    assert service.codes == [75, 0]
    assert {given["id"] for given in service.given} == {name}
    assert service.given[0]["config"]["optim.name"] == "adamw"
    assert all(given["resume"] == "allow" for given in service.given)


def test_wandb_gets_pictures_with_the_lines_of_their_step(tmp_path, service):
    file = tmp_path / "picture.png"
    writer = writers.open_writers(config_with("wandb"), tmp_path, [], print)
    for line in (*LINES[:3], {"step": 10, "split": "test", "reconstruction": file}):
        writer.write(line)
    writer.close(0)
    (rows,) = service.runs.values()
    assert rows[-1] == (10, {**ROWS[1][1], "test/reconstruction": ["image", str(file)]})


def test_a_writer_added_later_gets_all_earlier_lines(tmp_path, service):
    writer = writers.open_writers(config_with("wandb"), tmp_path, LINES, print)
    writer.close(0)
    assert list(service.runs.values()) == [ROWS]


def test_a_failing_writer_gives_one_message_and_the_others_continue(tmp_path, service):
    messages = []
    names = ("wandb", "tensorboard")
    writer = writers.open_writers(config_with(*names), tmp_path, [], messages.append)

    def fail(**given):
        raise OSError("the net\nis down")

    for line in LINES:
        writer.write(line)
        service.runs[next(iter(service.runs))].append((99, {}))  # the next row is refused
    writer.close(0)
    assert len(messages) == 1
    assert messages[0].startswith("log.writers: wandb has failed and is off; ")
    assert read_points(tmp_path / "tensorboard") == points_of(LINES)

    sys.modules["wandb"].init = fail
    messages.clear()
    writer = writers.open_writers(config_with("wandb"), tmp_path, [], messages.append)
    writer.write(LINES[0])
    writer.close(0)
    assert len(messages) == 1
    assert messages[0].endswith("OSError: the net is down")


def test_a_writer_that_ends_the_program_is_off_like_any_other(tmp_path, service, monkeypatch):
    monkeypatch.setattr(sys.modules["wandb"], "init", lambda **given: sys.exit("no login"))
    messages = []
    writer = writers.open_writers(config_with("wandb"), tmp_path, [], messages.append)
    writer.write(LINES[0])
    writer.close(0)
    assert len(messages) == 1
    assert messages[0].endswith("SystemExit: no login")


def read_history(file):
    """Read (step, values) of every row of a W&B file: a header of 7 bytes, then a LevelDB log."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, start, rows = file.read_bytes(), 7, []
    assert len(data) < 32768  # one block, so no record is split
    while start < len(data):
        _, length, kind = struct.unpack_from("<IHB", data, start)
        assert kind == 1
        record = Record.FromString(data[start + 7 : start + 7 + length])
        start += 7 + length
        if record.WhichOneof("record_type") == "history":
            items = {"/".join(i.nested_key) or i.key: i.value_json for i in record.history.item}
            row = {name: json.loads(text) for name, text in items.items() if "/" in name}
            rows.append((record.history.step.num, row))
    return rows


def test_the_real_wandb_offline(tmp_path, monkeypatch):
    """Each start writes the whole history, under one id."""
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    for start in (0, 3):
        writer = writers.open_writers(config_with("wandb"), tmp_path, LINES[:start], pytest.fail)
        for line in LINES[start:]:
            writer.write(line)
        writer.close(0)
    folders = sorted((tmp_path / "wandb").glob("offline-run-*"), key=lambda f: f.stat().st_mtime)
    files = [file for folder in folders for file in folder.glob("*.wandb")]
    assert len({file.name for file in files}) == 1
    end = time.monotonic() + 20
    while read_history(files[-1]) != ROWS:  # its service writes after the end of the run
        assert time.monotonic() < end, read_history(files[-1])
        time.sleep(0.1)
