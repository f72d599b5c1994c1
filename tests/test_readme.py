"""Every command of the README runs, with its training cut to two steps."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BLOCKS = re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
LINES = [line for block in BLOCKS for line in block.splitlines() if line.strip()]
COMMANDS = [shlex.split(line, comments=True) for line in LINES]
# `make` and `pip` set up environments: .ci/run does that, with these very targets.
PYTHON = [words for words in COMMANDS if words[0] == "python"]


def test_every_command_is_of_a_kind_that_is_run():
    assert {words[0] for words in COMMANDS} == {"python", "make", "pip"}
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert {words[1] for words in COMMANDS if words[0] == "make"} <= set(targets)
    assert len(PYTHON) >= 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the commands run, one after the other, as a reader would run them."""
    return tmp_path_factory.mktemp("readme")


@pytest.mark.parametrize("words", PYTHON, ids=" ".join)
def test_it_runs(words, folder, data_dir):
    words = list(words)
    if words[1] == "launch.py":
        words[1] = str(ROOT / "launch.py")
        words = [w.replace("configs/", f"{ROOT}/configs/") for w in words]
        words += ["--config.total_steps=2", "--config.batch_size=8", "--config.model.dtype=float32"]
        words += [f"--config.data.dir={data_dir}", "--config.schedule.warmup_epochs=none"]
        if "vit_b16" in " ".join(words):  # 86 million parameters, to be saved as well
            words += ["--config.model.width=96", "--config.model.depth=2"]
    process = subprocess.run(
        [sys.executable, *words[1:]],
        capture_output=True,
        text=True,
        cwd=folder,
        timeout=300,
        env={**os.environ, "TFDS_DATA_DIR": str(data_dir), "PYTHONPATH": str(ROOT)},
    )
    assert process.returncode == 0, process.stderr
    assert process.stdout.strip()
