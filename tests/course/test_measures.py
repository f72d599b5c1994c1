"""What chapters measure inside networks and runs, against other computations."""

import itertools
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from quick import quick_jit

from cv_jax import models
from cv_jax.course import networks
from cv_jax.course.chapters import attention, degradation


def test_a_net_without_a_block_is_the_net_with_a_branch_of_zeros():
    """The shortcut then carries the input, which is not negative, through the block."""
    fields = dict(stage_sizes=(2, 2), widths=(4, 8), stem_width=4, num_classes=3)
    model = models.create("resnet8_cifar", **fields)
    images = jax.random.normal(jax.random.key(1), (4, 8, 8, 3))
    variables = quick_jit(model.init)(jax.random.key(0), images)
    whole = quick_jit(lambda v: model.apply(v, images, train=False)[0])
    for block in ("layer1_0", "layer1_1", "layer2_1"):
        zeroed = jax.tree.map(lambda x: x, variables)
        norm = zeroed["params"][block]["bn2"]
        norm.update(scale=jnp.zeros_like(norm["scale"]), bias=jnp.zeros_like(norm["bias"]))
        skip = quick_jit(lambda v, block=block: degradation.logits_without(model, v, images, block))
        got = skip(variables)
        np.testing.assert_allclose(got, whole(zeroed), rtol=1e-5, atol=1e-5)
        assert not np.allclose(got, whole(variables), atol=1e-3)


@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (4, 4)])
def test_uniform_distance_is_the_mean_over_all_pairs(shape):
    places = list(itertools.product(range(shape[0]), range(shape[1])))
    pairs = [math.dist(a, b) for a in places for b in places]
    assert attention.uniform_distance(shape) == pytest.approx(sum(pairs) / len(pairs))


def test_the_first_step_that_reaches_a_value(tmp_path):
    lines = [
        {"step": 5, "split": "train", "accuracy": 0.5},
        {"step": 5, "split": "test", "accuracy": 0.9},
        {"step": 10, "split": "train", "accuracy": 0.75},
        {"step": 15, "split": "train", "accuracy": 0.7},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    assert networks.first_step(tmp_path, "train", "accuracy", 0.75) == 10
    assert networks.first_step(tmp_path, "train", "accuracy", 0.99) == 15
