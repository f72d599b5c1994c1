"""Programs that run once: the same bits as with all optimisations."""

import contextlib
import sys
from pathlib import Path

import jax
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


def test_hasty_programs_only_inside_the_block():
    def flag():
        return jax.config.read("jax_disable_most_optimizations")

    assert not flag()
    with contextlib.suppress(ValueError), compile_options.hasty():
        assert flag() == (jax.default_backend() == "cpu")
        raise ValueError
    assert not flag()
