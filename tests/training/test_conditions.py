"""What of the environment changes no bit of a run, and what a restart names because it may."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cv_jax.run import checkpoint, provenance

ROOT = Path(__file__).resolve().parents[2]
FIELDS = {
    "total_steps": 6,
    "checkpoint.every_steps": 3,
    "eval.every_steps": 3,
    "batch_size": 16,
    "image_size": 16,
    "augment": "resize(20)|random_crop(16)|flip|mixup(0.2)",
    "eval_preprocess": "resize(20)|central_crop(16)",
    "model.widths": "64,64",
    "model.dropout_rate": 0.1,
    "schedule.warmup_steps": 2,
    "data.cache": "none",
}


def train(path, data_dir, fields=(), umask=-1, cwd=ROOT, **environment):
    """Train or continue a run in a process; return what it said on stderr."""
    values = {**FIELDS, "data.dir": data_dir, **dict(fields)}
    words = [sys.executable, str(ROOT / "launch.py"), "--config", f"{ROOT}/configs/mlp.py"]
    words += ["--workdir", str(path), *(f"--config.{k}={x}" for k, x in values.items())]
    kept = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    process = subprocess.run(
        words, env={**kept, **environment}, cwd=cwd, umask=umask, capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr
    return process.stdout + process.stderr


def result(path):
    arrays, step = checkpoint.read_newest(path / "checkpoints", lambda name: True)
    bits = {name: (x.dtype, x.shape, np.asarray(x).tobytes()) for name, x in arrays.items()}
    return step, bits, *((path / name).read_text() for name in ("metrics.jsonl", "summary.json"))


def loaded(said):
    """Programs that a start loaded from the cache of compiled programs."""
    return int(re.search(r"(\d+) of \d+ programs loaded from the cache", said)[1])


def starts(path):
    return json.loads((path / "run.json").read_text())


@pytest.mark.slow
def test_the_environment_changes_no_bit_or_is_named(tmp_path, data_dir):
    home, cache = tmp_path / "home", tmp_path / "cache"
    home.mkdir()
    said = train(tmp_path / "plain", data_dir, XDG_CACHE_HOME=str(cache), PYTHONHASHSEED="0")
    assert loaded(said) == 0  # programs from the cold cache
    other = {
        "PYTHONHASHSEED": "12345",
        "TZ": "Pacific/Kiritimati",
        "LC_ALL": "C",
        "LANG": "tr_TR.UTF-8",
        "HOME": str(home),
        "USER": "someone",
        "LOGNAME": "someone",
        "OMP_NUM_THREADS": "7",
        "OPENBLAS_NUM_THREADS": "5",
        "MKL_NUM_THREADS": "3",
        "COLUMNS": "40",
        "TMPDIR": str(home),
        "XDG_CACHE_HOME": str(cache),
    }
    fields = {"data.threads": 3, "data.workers": 1, "data.prefetch": 3}
    said = train(tmp_path / "other", data_dir, fields, umask=0o077, cwd=home, **other)
    assert loaded(said) > 0  # programs from the warm cache
    assert result(tmp_path / "other") == result(tmp_path / "plain")
    first, second = (starts(tmp_path / name)[0] for name in ("plain", "other"))
    assert provenance.differences(first, second) == []

    path = tmp_path / "plain"
    shutil.rmtree(path / "checkpoints/6")
    (path / "summary.json").unlink()
    said = train(
        path,
        data_dir,
        PJRT_NPROC="1",
        XLA_FLAGS="--xla_cpu_enable_fast_math=false --xla_force_host_platform_device_count=2",
        JAX_DEFAULT_MATMUL_PRECISION="highest",
        NPY_DISABLE_CPU_FEATURES="",
    )
    (line,) = [x for x in said.splitlines() if "other conditions" in x]
    threads = first["cpu_threads"]
    for what in (
        *([f"cpu_threads: was {threads}, is now 1"] if threads > 1 else []),
        "xla_flags: was '', is now '--xla_cpu_enable_fast_math=false",
        "devices: was '1 of 1 cpu cpu', is now '2 of 2 cpu cpu'",
        "jax_default_matmul_precision: was None, is now 'highest'",
    ):
        assert what in line
