"""The operations that some versions of jaxlib compute wrongly on a CPU are right with the guard."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import jaxlib
import numpy as np
import pytest
from slow import slow_except

from cv_jax.devices import fused_reductions
from cv_jax.sweep.stacked import Batches, Stacked
from cv_jax.training import experiment

# The three reports of `fused_reductions`; each prints its largest relative error.
FAULTS = {
    "a product, a square and a sum": """
i = jnp.arange(32_769, dtype=jnp.float32)
x = jnp.stack((i, 0 * i, 0 * i), axis=1)
matrix = jnp.eye(3)
got = jax.jit(jax.vmap(lambda row: jnp.sum((matrix @ row) ** 2)))(x)
expected = np.arange(32_769, dtype=np.float64) ** 2
""",
    "eight axes": """
a, b = np.full((10, 4, 6), 0.5, np.float32), np.full((10, 4, 6, 9, 9, 9, 9, 9), 2, np.float32)
got = jax.jit(lambda a, b: jnp.log(jnp.sum(a[..., None, None, None, None, None] * b, axis=2)))(a, b)
expected = np.full(got.shape, np.log(6))
""",
    "seven axes": """
a, b = np.random.default_rng(0).random((2, 3, 1, 2, 2, 8, 8, 8), np.float32)
got = jax.jit(lambda a, b: jnp.sum(a * b, axis=3))(a, b)
expected = (a * b).sum(3)
""",
}
CODE = """
from cv_jax.devices import start
start.load_jax()
import jax, jax.numpy as jnp, numpy as np
{}
print(np.max(np.abs(got - expected) / np.maximum(expected, 1)))
"""


@pytest.mark.parametrize("fault", FAULTS)
def test_reported_faults_do_not_occur(fault):
    """In a child process, because two of them end the process without the guard."""
    process = subprocess.run(
        [sys.executable, "-c", CODE.format(FAULTS[fault])],
        capture_output=True,
        text=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""},
    )
    assert process.returncode == 0, process.stderr[-500:]
    assert float(process.stdout) < 1e-5


@pytest.mark.parametrize(
    ("function", "shapes", "risk"),
    [
        (lambda a, b: a @ b, [(9, 3), (3, 5)], True),
        (lambda a, b: jnp.einsum("bnij,boij->bno", a, b), [(2, 9, 3, 1), (2, 4, 3, 1)], True),
        (lambda a, b: a @ b, [(9, 4), (4, 3)], False),
        (lambda a, b: a @ b, [(3, 4), (4, 5)], False),
        (lambda a: a.sum(2), [(1, 2, 3, 1, 2, 3, 1)], True),
        (lambda a: a.sum(2), [(1, 2, 3, 1, 2, 3)], False),
        (lambda a: a.reshape(1, 1, 1, 1, 1, 2, 6).max(), [(3, 4)], True),
    ],
)
def test_programs_at_risk(function, shapes, risk):
    arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    assert fused_reductions.at_risk(jax.jit(function).lower(*arrays).as_text()) is risk


NETS = {
    "mlp": {},
    "resnet20_cifar": {"model.stage_sizes": "1,1,1"},
    "vit_ti16": {"model.depth": 1},
    "deit:digits,model=deit_ti16_distilled": {"model.depth": 1, "model.width": 48},
    "swin": {"model.width": 16, "model.depths": "2,1", "model.num_heads": "1,2"},
    "swin:digits,model=swinv2_t": {"model.depths": "1,1", "model.num_heads": "1,2"},
    "lenet5:digits,model=lenet5_1998": {},
    "image_transformer": {"model.depth": 1, "model.decoder_depth": 1},
    "mae": {"model.depth": 1, "model.decoder_depth": 1},
}
SMALL = {"batch_size": 8, "total_steps": 2, "mesh.devices": 1, "schedule.warmup_epochs": "none"}


@pytest.mark.parametrize("reference", slow_except(NETS, "mlp", "vit_ti16"))
def test_the_programs_of_ordinary_runs_are_not_at_risk(reference, load_config):
    """The guard changes neither the bits nor the speed of these runs."""
    name, _, argument = reference.partition(":")
    parts = experiment.build(load_config(name, {**SMALL, **NETS[reference]}, argument))
    step = parts.train_step().lower(parts.abstract_state, next(parts.train_batches(0)))
    assert not fused_reductions.at_risk(step.as_text())


@pytest.mark.slow
def test_the_merged_step_of_two_swins_equals_their_separate_steps(load_config, monkeypatch):
    """The step has reductions over windows of seven axes."""
    texts = []
    at_risk = fused_reductions.at_risk
    monkeypatch.setattr(
        fused_reductions, "at_risk", lambda text: texts.append(text) or at_risk(text)
    )
    fused_reductions.guard()
    swin = {**SMALL, "model.width": 8, "model.depths": "1", "model.num_heads": "1"}
    both = [
        experiment.build(load_config("swin", {**swin, "seed": seed, "optim.name": "sgd"}))
        for seed in (0, 1)
    ]
    stacked, batches = Stacked(both, 1), Batches(both, 2)
    states, batch = stacked.init(None), jax.device_put(batches[0], stacked.place)
    merged, _ = stacked.train_step(batches.example())(states, batch)
    if jaxlib.__version__ in fused_reductions.VERSIONS:
        assert any(at_risk(text) for text in texts)
    for i, parts in enumerate(both):
        one = jax.tree.map(lambda x, i=i: x[i], batches[0])
        state, _ = parts.train_step()(parts.init()(), next(parts.train_batches(0)))
        assert (one["label"] == next(parts.train_batches(0))["label"]).all()
        for ours, theirs in zip(
            jax.tree.leaves(stacked.take(merged, i).params),
            jax.tree.leaves(state.params),
            strict=True,
        ):
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
