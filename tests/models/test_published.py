"""Parameters and multiply-adds against the published ones."""

import jax
import jax.numpy as jnp
import pytest
from published import PUBLISHED, agrees

from cv_jax import models
from cv_jax.models.count import count_multiply_adds


@pytest.mark.parametrize("row", PUBLISHED, ids=lambda row: row.source if row.fields else row.name)
def test_published_size(row):
    model = models.create(row.name, **row.fields)
    small = row.fields.get("stem") == "cifar"
    inputs = (jnp.zeros((1, 32, 32, 3)),) if small else models.dummy_inputs(row.name)
    multiply_adds, variables = count_multiply_adds(
        lambda *x: model.init(jax.random.key(0), *x), *inputs
    )
    parameters = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    if row.parameters is not None:
        assert agrees(parameters, row.parameters), f"{parameters} against {row.parameters}"
    if row.multiply_adds is not None:
        assert agrees(multiply_adds, row.multiply_adds), (
            f"{multiply_adds} is not {row.multiply_adds}"
        )


def test_agrees_means_rounding():
    assert agrees(853_018, "0.85 M")
    assert not agrees(856_018, "0.85 M")
    assert not agrees(25_557_031, "25557032")
