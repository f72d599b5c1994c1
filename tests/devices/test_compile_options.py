"""Options of the compiler: the operations they concern; programs that run once keep their bits."""

import contextlib
import re
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import jaxlib
import numpy as np
import pytest
from slow import slow_except

from cv_jax import models
from cv_jax.devices import compile_options

sys.path.append(str(Path(__file__).resolve().parent.parent / "models"))
from small_models import SMALL

KEYS = ("lenet5", "swin", "mae", "image_transformer")


@pytest.mark.parametrize("key", slow_except(KEYS, "lenet5"))
def test_an_initialisation_has_the_same_bits(key):
    small = SMALL[key]
    model = models.create(small.name, **small.fields)
    images = small.inputs(2) if small.inputs else (np.ones((2, *small.image), np.float32),)
    rngs = {name: jax.random.key(i) for i, name in enumerate(("params", "dropout", "mask"))}
    made = [
        jax.jit(lambda: model.init(rngs, *images), compiler_options=options)()
        for options in ({"xla_backend_optimization_level": 3}, compile_options.once())
    ]
    for usual, quick in zip(*map(jax.tree.leaves, made), strict=True):
        np.testing.assert_array_equal(np.asarray(usual), np.asarray(quick))


def test_the_measured_options_concern_convolutions_only():
    """Products and sums are computed as before; by default this version fuses all three."""
    if jaxlib.__version__ not in compile_options.MEASURED:
        pytest.skip(f"nothing was measured with jaxlib {jaxlib.__version__}")

    def function(x, kernel, a):
        numbers = ("NHWC", "HWIO", "NHWC")
        y = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=numbers)
        return y, a @ a, jnp.sum(2 * a * a, axis=1)

    arrays = [jax.ShapeDtypeStruct(s, "float32") for s in ((4, 28, 28, 32), (3, 3, 32, 32))]
    arrays += [jax.ShapeDtypeStruct((512, 512), "float32")]
    fused = []
    for options in (None, compile_options.MEASURED[jaxlib.__version__]):
        text = jax.jit(function, compiler_options=options).lower(*arrays).compile().as_text()
        lines = [line for line in text.splitlines() if "__ynn_fusion" in line]
        fused.append(sorted(re.search(r"f32\[[\d,]*\]", line)[0] for line in lines))
    assert fused == [["f32[4,28,28,32]", "f32[512,512]", "f32[512]"], ["f32[512,512]", "f32[512]"]]


def test_flags_of_the_user_count(monkeypatch):
    options = {"xla_a": "1", "xla_b": "2"}
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    assert compile_options.without_flags(options) == options
    monkeypatch.setenv("XLA_FLAGS", "--xla_b=3 --xla_aa=4")
    assert compile_options.without_flags(options) == {"xla_a": "1"}


def test_an_accelerator_one_thread_and_an_unknown_version_have_no_options(monkeypatch):
    monkeypatch.setattr(jaxlib, "__version__", "0.0.1")
    assert compile_options.for_steps() == {}
    monkeypatch.setattr(compile_options, "MEASURED", {"0.0.1": {"xla_a": "1"}})
    monkeypatch.setattr(compile_options.platform, "machine", lambda: "x86_64")
    monkeypatch.setenv("PJRT_NPROC", "2")
    assert compile_options.for_steps() == {"xla_a": "1"}
    monkeypatch.setenv("PJRT_NPROC", "1")
    assert compile_options.for_steps() == {}
    monkeypatch.setenv("PJRT_NPROC", "2")
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert compile_options.for_steps() == {}


def test_hasty_programs_only_inside_the_block():
    def flag():
        return jax.config.read("jax_disable_most_optimizations")

    assert not flag()
    with contextlib.suppress(ValueError), compile_options.hasty():
        assert flag() == (jax.default_backend() == "cpu")
        raise ValueError
    assert not flag()
