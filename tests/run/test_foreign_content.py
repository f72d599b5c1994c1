"""Whatever lies in a run folder, a start continues, or names the path to move away."""

import os
import shutil
import socket

import pytest
from slow import slow_except
from test_owner import assert_like, command, runs, saved, trained  # noqa: F401

from cv_jax.__main__ import main
from cv_jax.run import checkpoint, workdir


def make_folder(path):
    path.mkdir()
    (path / "thesis.tex").write_text("")


def make_socket(path):
    with socket.socket(socket.AF_UNIX) as server:
        before = os.getcwd()
        os.chdir(path.parent)  # names of sockets are short
        server.bind(path.name)
        os.chdir(before)


KINDS = {
    "folder": make_folder,
    "file": lambda path: path.write_text("hello"),
    "pipe": os.mkfifo,
    "socket": make_socket,
    "dangling link": lambda path: path.symlink_to("nowhere"),
    "circular link": lambda path: path.symlink_to(path.name),
}


def remove(path):
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


# ---- Among the checkpoints

NAMES = ("024", "٤٨", "2４", "best", "4", "4.writing", "3.abcd.deleting", "damaged")


@pytest.mark.parametrize("kind", slow_except(KINDS, "folder", "pipe"))
@pytest.mark.parametrize("name", slow_except(NAMES, "024", "4", long=True))
def test_a_start_continues_beside_any_entry_among_the_checkpoints(
    name,
    kind,
    runs,  # noqa: F811
    trained,  # noqa: F811
    data_dir,
    capsys,
):
    path = runs / "own/checkpoints" / name
    KINDS[kind](path)
    code = command(runs / "own", data_dir)
    if code:
        assert code == 2
        assert f"{path} is " in capsys.readouterr().err
        path.rename(runs / "away")
        assert command(runs / "own", data_dir) == 0
    assert_like(runs / "own", trained / "own")
    if name in ("best", "024", "٤٨", "2４"):
        assert os.path.lexists(path)


def test_a_number_in_another_form_is_named(runs, data_dir, caplog, capsys):  # noqa: F811
    """`024` once made every start fail with "No such file"."""
    saved(runs / "own", 3).rename(saved(runs / "own", "03"))
    assert checkpoint.finished(runs / "own/checkpoints") == [1, 2]
    assert main(["verify", str(runs / "own")]) == 1
    assert "checkpoints/03: a step is written in another way" in capsys.readouterr().out
    assert command(runs / "own", data_dir) == 0
    assert "checkpoints/03 is not read" in caplog.text
    assert workdir.read_starts(runs / "own")[-1]["step"] == 2


# ---- In place of a file or folder of the run

FILES = ("config.json", "run.json", "classes.json", "metrics.jsonl", "timing.jsonl", "summary.json")
ENTRIES = (*FILES, "lock", "checkpoints", "tensorboard", ".writing-x", "notes")


@pytest.mark.parametrize("kind", slow_except(KINDS, "folder", "pipe"))
@pytest.mark.parametrize("name", slow_except(ENTRIES, "metrics.jsonl", "timing.jsonl", long=True))
def test_a_start_continues_or_names_what_is_in_the_place_of_a_file(
    name,
    kind,
    runs,  # noqa: F811
    trained,  # noqa: F811
    data_dir,
    capsys,
):
    path, kept = runs / "own" / name, runs / "kept"
    if os.path.lexists(path):
        path.rename(kept)
    KINDS[kind](path)
    code = command(runs / "own", data_dir)
    if code:
        assert code == 2
        assert f"{path} is " in capsys.readouterr().err
        path.rename(runs / "away")
        if name == "checkpoints":
            kept.rename(path)
        assert command(runs / "own", data_dir) == 0
    assert_like(runs / "own", trained / "own")


# ---- Removed while the run trains


def removing(monkeypatch, action, at):
    """Call `action` before the save of a step."""
    save = checkpoint.Checkpoints.save

    def saving(self, step, *rest):
        if step == at:
            self.wait()
            action()
        return save(self, step, *rest)

    monkeypatch.setattr(checkpoint.Checkpoints, "save", saving)


def test_checkpoints_that_are_removed_while_the_run_trains(
    tmp_path,
    trained,  # noqa: F811
    data_dir,
    monkeypatch,
):
    removing(monkeypatch, lambda: shutil.rmtree(tmp_path / "run/checkpoints"), at=3)
    assert command(tmp_path / "run", data_dir) == 0
    assert checkpoint.finished(tmp_path / "run/checkpoints") == [3, 4]
    assert_like(tmp_path / "run", trained / "own")
    assert main(["verify", str(tmp_path / "run")]) == 0


@pytest.mark.parametrize("name", ["config.json", "run.json", "classes.json", "metrics.jsonl"])
def test_records_that_are_removed_or_changed_while_the_run_trains(
    name,
    tmp_path,
    trained,  # noqa: F811
    data_dir,
    monkeypatch,
):
    file = tmp_path / "run" / name
    change = {"metrics.jsonl": lambda: file.write_text("line\n")}.get(name, file.unlink)
    removing(monkeypatch, change, at=3)
    assert command(tmp_path / "run", data_dir) == 0
    assert_like(tmp_path / "run", trained / "own")
    assert main(["verify", str(tmp_path / "run")]) == 0
    assert command(tmp_path / "run", data_dir) == 0


def test_a_last_checkpoint_that_is_removed_is_no_success(
    tmp_path,
    trained,  # noqa: F811
    data_dir,
    monkeypatch,
    capsys,
):
    close = checkpoint.Checkpoints.close

    def closing(self):
        close(self)
        shutil.rmtree(self.folder)

    monkeypatch.setattr(checkpoint.Checkpoints, "close", closing)
    assert command(tmp_path / "run", data_dir) == 1
    assert "checkpoint 4 was saved in" in capsys.readouterr().err
    assert not (tmp_path / "run/summary.json").exists()
    monkeypatch.undo()
    assert command(tmp_path / "run", data_dir) == 0
    assert_like(tmp_path / "run", trained / "own")


def test_a_run_whose_files_are_removed_stops_and_can_start_anew(
    tmp_path,
    trained,  # noqa: F811
    data_dir,
    monkeypatch,
    capsys,
):
    def empty():
        for path in (tmp_path / "run").iterdir():
            remove(path)

    removing(monkeypatch, empty, at=3)
    assert command(tmp_path / "run", data_dir) == 1
    assert "was moved, removed or replaced while it was in use" in capsys.readouterr().err
    monkeypatch.undo()
    (tmp_path / "run/checkpoints/3.ab.writing/state").mkdir(parents=True)  # of a late thread
    assert command(tmp_path / "run", data_dir) == 0
    assert_like(tmp_path / "run", trained / "own")


def test_files_without_a_run_are_named(tmp_path, data_dir, capsys):
    (tmp_path / "run/checkpoints/7").mkdir(parents=True)
    assert command(tmp_path / "run", data_dir) == 2
    assert "or move away what is in it: checkpoints" in capsys.readouterr().err
