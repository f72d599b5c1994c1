"""Fixtures of all tests: eight simulated devices, and a data folder in a temporary directory."""

import os

# jax reads these variables at import. Tests build meshes of up to eight devices. Most of their time
# is compilation, so LLVM does not optimise; the fixture `full_optimisation` is for tests of bits.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
if os.environ["JAX_PLATFORMS"] == "cpu":
    flags = os.environ.get("XLA_FLAGS", "")
    for flag, value in (
        ("xla_backend_optimization_level", 0),
        ("xla_force_host_platform_device_count", 8),
    ):
        if flag not in flags:
            flags = f"{flags} --{flag}={value}".strip()
    os.environ["XLA_FLAGS"] = flags

import atexit  # noqa: E402
import pathlib  # noqa: E402
import shutil  # noqa: E402
import tempfile  # noqa: E402

# Test workers and the commands that tests start share one temporary cache of compiled programs.
if "PYTEST_XDIST_WORKER" not in os.environ:
    os.environ.pop("JAX_COMPILATION_CACHE_DIR", None)
    os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="cv_jax_tests_")
    atexit.register(shutil.rmtree, os.environ["XDG_CACHE_HOME"], ignore_errors=True)

import pytest  # noqa: E402
from hypothesis import settings  # noqa: E402

# Every run tests the same examples. The profile "quick" (`make test`) limits those of test_fuzz.py,
# "default" draws new examples, and "long" draws 500 for each test: `--hypothesis-profile=long`.
settings.register_profile("same", derandomize=True)
settings.register_profile("quick", derandomize=True, max_examples=3)
settings.register_profile("long", max_examples=500)
settings.load_profile("same")

ROOT = pathlib.Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    """TFDS folder with the embedded digits."""
    from cv_jax.data import embedded

    return embedded.ensure("digits", tmp_path_factory.mktemp("tfds"))


@pytest.fixture(scope="session")
def numbers_dir(tmp_path_factory):
    """TFDS folder with a few strips of digits, the dataset `numbers`."""
    from cv_jax.data import embedded, strips

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(strips, "COUNTS", {"train": 96, "test": 24, "longer": 12})
        return embedded.ensure("numbers", tmp_path_factory.mktemp("numbers"))


@pytest.fixture(scope="session")
def symbols_dir(tmp_path_factory):
    """TFDS folder with a few short sequences of letters: `copy`, `reverse` and `sort`."""
    from cv_jax.data import embedded, symbols

    folder = tmp_path_factory.mktemp("symbols")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(symbols, "COUNTS", {"train": 96, "test": 24})
        patch.setattr(symbols, "LENGTHS", (1, 5))
        for name in symbols.TARGETS:
            embedded.ensure(name, folder)
    return folder


@pytest.fixture(scope="session")
def load_config(data_dir):
    """`load_config("mlp", {"total_steps": 3}, …)` returns a resolved config of this repository."""
    from cv_jax import config

    def load(name, overrides=None, argument=""):
        reference = f"{ROOT / 'configs' / name}.py:{argument}"
        texts = {key: str(value) for key, value in (overrides or {}).items()}
        return config.load(reference, {"data.dir": str(data_dir), **texts})

    return load


def compile_with(monkeypatch, first=(), last=()):
    """Add options of the compiler to those of every program; of equal names the last one counts."""
    from jax._src import compiler

    compile_ = compiler.compile_or_get_cached

    def compiled(backend, module, devices, options, *rest, **more):
        options.env_option_overrides = [*first, *options.env_option_overrides, *last]
        return compile_(backend, module, devices, options, *rest, **more)

    monkeypatch.setattr(compiler, "compile_or_get_cached", compiled)


@pytest.fixture
def full_optimisation(monkeypatch):
    """Compile as in the runs of users, for tests of equal bits: LLVM's optimisations round."""
    compile_with(monkeypatch, first=[("xla_backend_optimization_level", 3)])


@pytest.fixture
def fast_compilation(monkeypatch):
    """Compile without any optimisation, for a test whose programs run once; see `quick`."""
    import jax
    from quick import OPTIONS

    compile_with(monkeypatch, last=OPTIONS.items())
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)
