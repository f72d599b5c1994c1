"""`python -m cv_jax`: dispatch, and the command `verify`."""

import jax.numpy as jnp
import pytest

from cv_jax.__main__ import COMMANDS, main
from cv_jax.run.checkpoint import Checkpoints


@pytest.fixture
def workdir(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    for step in (5, 10):
        checkpoints.save(step, {"a": jnp.arange(step)}, {})
    checkpoints.close()
    return tmp_path


def test_sound_and_damaged_checkpoints(workdir, capsys):
    assert main(["verify", str(workdir)]) == 0
    assert capsys.readouterr().out.count(": sound") == 2
    (workdir / "checkpoints" / "10" / "meta.json").write_text("{}")
    assert main(["verify", str(workdir)]) == 1
    out = capsys.readouterr().out
    assert f"{workdir}/checkpoints/5: sound" in out
    assert f"{workdir}/checkpoints/10: meta.json differs from what was written" in out
    assert (workdir / "checkpoints" / "10").is_dir()  # nothing is moved


def test_a_damaged_checkpoint_before_a_sound_one_can_be_deleted(workdir, capsys):
    (workdir / "checkpoints" / "5" / "meta.json").write_text("{}")
    assert main(["verify", str(workdir)]) == 1
    out = capsys.readouterr().out
    assert "5: meta.json differs from what was written; a newer checkpoint is sound: this" in out
    assert f"{workdir}/checkpoints/10: sound" in out


def test_mistakes_give_one_line_and_code_2(tmp_path, capsys):
    assert main(["verify", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"error: {tmp_path} holds neither checkpoints nor records\n"
    assert main(["verfy", str(tmp_path)]) == 2
    assert "unknown command 'verfy'; allowed: models" in capsys.readouterr().err
    assert main([]) == 2


def test_help_names_every_command(capsys):
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(f"  {name} " in out for name in COMMANDS)
