"""What is at a path, and which paths a command accepts."""

import os
import socket

import pytest

from cv_jax import paths
from cv_jax.errors import InputError


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    os.mkfifo("pipe")
    socket.socket(socket.AF_UNIX).bind("socket")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "link").symlink_to("file")
    return tmp_path


KINDS = {
    "missing": "does not exist",
    "folder": "is a folder",
    "file": "is a file",
    "link": "is a file",
    "pipe": "is a pipe",
    "socket": "is a socket",
    "loop": "is a link to a missing file",
    "dangling": "is a link to a missing file",
    "file/inside": "does not exist",
    "/dev/null": "is a device",
}


@pytest.mark.parametrize("name", KINDS)
def test_the_kind_of_a_path(folder, name):
    path = folder / name
    assert paths.described(path) == KINDS[name]
    if KINDS[name] == "is a file":
        paths.require_file(path)
        return
    with pytest.raises(InputError) as caught:
        paths.require_file(path, "config.x: ")
    assert str(caught.value) == f"config.x: {path} {KINDS[name]}; give a file"


@pytest.mark.parametrize("name", ["folder", "missing", "folder/a/b", "missing/a"])
def test_a_folder_or_what_can_become_one(folder, name):
    paths.require_folder(folder / name, "--to")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("file", "--to={0}/file is a file; give a folder"),
        ("file/a/b", "--to={0}/file/a/b: {0}/file is a file; give a folder"),
        ("dangling", "--to={0}/dangling is a link to a missing file; give a folder"),
        ("loop/a", "--to={0}/loop/a: {0}/loop is a link to a missing file; give a folder"),
        ("pipe", "--to={0}/pipe is a pipe; give a folder"),
        ("a\udce9", "--to={0}/a\udce9 is not valid UTF-8; rename it"),
    ],
)
def test_what_cannot_become_a_folder(folder, name, message):
    with pytest.raises(InputError) as caught:
        paths.require_folder(folder / name, "--to")
    assert str(caught.value) == message.format(folder)


@pytest.mark.parametrize(
    ("name", "force", "message"),
    [
        ("file", False, "file exists; add --force to overwrite it"),
        ("dangling", False, "dangling exists; add --force to overwrite it"),
        ("pipe", True, "pipe is a pipe; give a file"),
        ("folder", True, "folder is a folder; give a file"),
        ("file/new", False, "file/new: {0}/file is a file; give a folder"),
        ("missing/new", False, "missing/new: {0}/missing does not exist; give a folder"),
    ],
)
def test_files_that_a_command_may_not_write(folder, name, force, message):
    with pytest.raises(InputError) as caught:
        paths.require_new_file(folder / name, "--out", force)
    assert str(caught.value).endswith(message.format(folder))
    paths.require_new_file(folder / "new", "--out", force)
    paths.require_new_file(folder / "file", "--out", True)
