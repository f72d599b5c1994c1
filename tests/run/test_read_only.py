"""A finished run or sweep on a read-only disk is evaluated, read and reported to another folder."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
sys.path += [str(ROOT / "benchmarks"), str(ROOT / "tests" / "report")]

import fault_injection  # noqa: E402
import sweeps  # noqa: E402
from test_owner import command, contents  # noqa: E402

from cv_jax.__main__ import main  # noqa: E402


@pytest.fixture
def read_only(tmp_path):
    """`read_only(folder)` moves the folder to a read-only disk, and returns it there."""
    disk = tmp_path / "disk"

    def move(folder):
        disk.mkdir()
        if not fault_injection.can_mount(tmp_path):
            pytest.skip("mounting a tmpfs needs root")
        fault_injection.mount(disk, "size=100m")
        shutil.copytree(folder, disk / "copy")
        fault_injection.mount(disk, "remount,ro")
        return disk / "copy"

    yield move
    if os.path.ismount(disk):
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.slow
def test_a_finished_run_on_a_read_only_disk(tmp_path, data_dir, read_only, capsys):
    assert command(tmp_path / "run", data_dir) == 0
    path = read_only(tmp_path / "run")
    before = contents(path)
    capsys.readouterr()
    assert command(path, data_dir, "--evaluate") == 0
    captured = capsys.readouterr().out
    assert f"only printed: --workdir={path} cannot be written: Read-only file system" in captured
    Image.fromarray(np.full((8, 8), 99, np.uint8)).save(tmp_path / "grey.png")
    out = str(tmp_path / "out")
    for words in (
        ["predict", path, tmp_path / "grey.png", "--json"],
        ["verify", path],
        ["report", path, "--out", out],
        ["convert", path, tmp_path / "weights.safetensors"],
    ):
        assert main([str(word) for word in words]) == 0, words
    assert (tmp_path / "out/report.html").is_file()
    capsys.readouterr()
    for overrides in ({}, {"seed": 1}):
        assert command(path, data_dir, **overrides) == 2
    assert main(["report", str(path)]) in (1, 2)
    lines = capsys.readouterr().err.splitlines()
    assert any("cannot be written: Read-only file system" in line for line in lines)
    assert contents(path) == before


def test_a_sweep_on_a_read_only_disk(tmp_path, read_only, capsys):
    for point in sweeps.write(tmp_path / "sweep", [{"seed": 0}, {"seed": 1}]):
        sweeps.finish(tmp_path / "sweep", point, 0.5)
    path = read_only(tmp_path / "sweep")
    assert main(["report", str(path), "--out", str(tmp_path / "out")]) == 0
    assert "cannot be written: its trials get no new pages" in capsys.readouterr().out
    assert "50.00 %" in (tmp_path / "out/report.md").read_text()
    assert (tmp_path / "out/report.html").is_file()
