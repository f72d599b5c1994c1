"""What JAX refuses in the environment is one line and exit code 2; types and draws are fixed."""

import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from cv_jax.devices import jax_settings, processor, start
from cv_jax.errors import InputError

ROOT = Path(__file__).resolve().parents[2]

# Settings that change no number: checks that raise errors, logs, caches, connections, choice of
# devices, and parts of JAX that cv_jax does not use.
HARMLESS = re.compile(
    "jax2tf|export|serialization|_log_|log_modules|logging|traceback|location|debug_info|dump"
    "|cache(?!_expect_pgle)|distributed|cross_host|transfer_guard|thread_guard|collection_guard"
    "|_checks|key_reuse|leak|static_indices|captured_constants|source|share_binary|mesh_context"
    "|no_tracing|no_execution|vmap_shmap|runtime_errors|profile_version|ragged|pallas|mosaic"
    "|proxy_envs|recoverability|preemption|visible_devices|async_dispatch|topology_timeout"
    "|num_cpu_devices|jax_platforms|pprint|mtls|ppermute_sort|shard_args|emit_pipeline"
)


def run(command, **environment):
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "XLA_FLAGS"))}
    return subprocess.run(
        [sys.executable, *command],
        env={**clean, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        cwd=ROOT,
    )


def test_every_setting_of_jax_is_known():
    tables = {**jax_settings.FIXED, **jax_settings.RECORDED}
    unknown = [n for n in jax.config.values if n not in tables and not HARMLESS.search(n)]
    assert not unknown, "decide whether these settings change numbers"
    assert not [name for name in tables if HARMLESS.search(name)]


NUMBERS = """
from cv_jax.devices import start
start.load_jax()
import jax, jax.numpy as jnp
from cv_jax.devices import jax_settings
key = jax.random.key(3)
print(jax.random.normal(key, (5,)), jax.random.key_data(key))
print(jnp.arange(3) * 1.5, jnp.ones(2).dtype, jnp.arange(3).dtype)
print(jax_settings.changed())
"""


def test_types_and_random_numbers_do_not_depend_on_the_environment():
    plain = run(["-c", NUMBERS])
    names = ("JAX_ENABLE_X64=1", "JAX_THREEFRY_PARTITIONABLE=0", "JAX_RANDOM_SEED_OFFSET=7")
    names += ("JAX_DEFAULT_PRNG_IMPL=rbg", "JAX_NUMPY_DTYPE_PROMOTION=strict")
    given = dict(name.split("=") for name in names)
    other = run(["-c", NUMBERS], **given)
    assert plain.returncode == other.returncode == 0, other.stderr
    assert other.stdout == plain.stdout
    assert "{}" in plain.stdout
    assert plain.stderr == ""
    (line,) = other.stderr.splitlines()
    assert all(name in line for name in names)
    assert line.endswith("without effect: cv_jax defines its types and random numbers")


def test_a_setting_that_changes_rounding_is_recorded(monkeypatch):
    assert jax_settings.changed() == {}
    monkeypatch.setitem(jax_settings.RECORDED, "jax_enable_checks", True)
    assert jax_settings.changed() == {"jax_enable_checks": False}


LAUNCH = ["launch.py", "--config", "configs/mlp.py", "--dry_run"]


@pytest.mark.parametrize(
    ("command", "environment", "message"),
    [
        (LAUNCH, {"JAX_PLATFORMS": "tpu,cpu"}, "JAX_PLATFORMS=tpu,cpu: .*available .*: cpu"),
        (
            ["-m", "cv_jax", "receptive-field", "lenet5"],
            {"JAX_PLATFORMS": "nonsense"},
            "JAX_PLATFORMS=nonsense: .*available on this machine: cpu",
        ),
        (LAUNCH, {"JAX_ENABLE_X64": "maybe"}, "with JAX_ENABLE_X64=maybe: invalid truth value"),
        (["-m", "cv_jax", "models"], {"XLA_FLAGS": "--xla_no=1"}, "Unknown flag .*--xla_no=1"),
    ],
)
def test_a_refusal_of_jax_is_one_line(command, environment, message):
    process = run(command, **environment)
    assert process.returncode == 2, process.stderr
    (line,) = process.stderr.splitlines()
    assert re.match(f"error: .*{message}", line), line
    assert process.stdout == ""


def test_values_of_the_environment_are_checked(monkeypatch):
    for flags, reason in (
        ("--xla_no=1", "Unknown flag in XLA_FLAGS: --xla_no=1"),
        ("/nowhere", 'Could not open file "/nowhere"'),
        ("--xla_gpu_autotune_level=abc", "Couldn't interpret value abc for flag xla_gpu_autotune"),
    ):
        with pytest.raises(InputError, match=f"^here: {reason}") as caught:
            start.check_xla_flags(flags, "here")
        assert "\n" not in str(caught.value)
    start.check_xla_flags("--xla_cpu_enable_fast_math=false", "here")

    for devices in ("", "0,1", "GPU-8f2e/1", "MIG-3, 4", "-1", "NoDevFiles"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", devices)
        start._check_visible_devices()
    for devices in ("nonsense", "0;1", "0,gpu1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", devices)
        with pytest.raises(InputError, match=f"CUDA_VISIBLE_DEVICES={devices}: .* UUID of a GPU"):
            start._check_visible_devices()


def test_threads_are_counted_as_xla_counts_them(monkeypatch):
    for name in ("PJRT_NPROC", "NPROC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 3, 5})
    assert processor.threads() == 3
    monkeypatch.setenv("NPROC", "7")
    assert processor.threads() == 7
    monkeypatch.setenv("PJRT_NPROC", "many")
    assert processor.threads() == 7
    monkeypatch.setenv("PJRT_NPROC", "2")
    assert processor.threads() == 2
