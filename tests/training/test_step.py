"""The training step: accumulation, freezing, averages."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cv_jax.errors import InputError
from cv_jax.training import experiment, step

MIXED = {
    "image_size": 12,
    "augment": "resize(12)|flip|mixup(0.3)",
    "eval_preprocess": "resize(12)",
    "batch_size": 128,
    "total_steps": 8,
    "schedule.name": "constant",
    "schedule.warmup_epochs": "none",
    "optim.name": "sgd",  # its updates depend on the scale of the gradient
    "optim.learning_rate": 0.1,
    "loss.label_smoothing": 0.1,
}
VIT = {"model.patch_size": 4, "model.width": 32, "model.depth": 1, "model.num_heads": 4}


def run(load_config, name, steps, **overrides):
    parts = experiment.build(load_config(name, {"mesh.devices": 1, **MIXED, **overrides}))
    state, train_step, losses = parts.init()(), parts.train_step(), []
    batches = parts.train_batches(0)
    for _ in range(steps):
        state, metrics = train_step(state, next(batches))
        losses.append(float(metrics["loss"]))
    batches.close()
    return np.array(losses), jax.device_get(state)


@pytest.fixture(scope="module")
def whole_batch(load_config):
    return run(load_config, "vit_ti16", 2, **VIT)


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 8])
def test_four_micro_batches_of_32_equal_a_batch_of_128(load_config, whole_batch, devices):
    """With mixing; two updates, up to float32 rounding."""
    accumulated = {"optim.accumulate_steps": 4, "mesh.devices": devices}
    got, state = run(load_config, "vit_ti16", 2, **VIT, **accumulated)
    losses, expected = whole_batch
    np.testing.assert_allclose(got, losses, rtol=1e-5)
    assert got[1] < got[0]
    for a, b in zip(*map(jax.tree.leaves, (state.params, expected.params)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=2e-6)
    # The head is initialised to zero, so its updates are much larger than the tolerance.
    assert np.abs(expected.params["head"]["kernel"]).max() > 1e-2
    assert state.sums["count"] == expected.sums["count"] == 2 * 128
    assert abs(state.sums["correct"] - expected.sums["correct"]) <= 1


@pytest.mark.slow
def test_masks_of_an_autoencoder_do_not_depend_on_accumulation(load_config):
    small = {"image_size": 16, "augment": "", "eval_preprocess": "", "model.width": 16}
    small |= {"model.depth": 1, "model.num_heads": 2, "model.decoder_width": 16}
    small |= {"model.decoder_depth": 1, "batch_size": 32}
    whole, _ = run(load_config, "mae", 2, **small)
    got, _ = run(load_config, "mae", 2, **small, **{"optim.accumulate_steps": 4})
    np.testing.assert_allclose(got, whole, rtol=1e-5)


def test_dropout_masks_differ_per_micro_batch(load_config):
    dropped = {"model.widths": "64", "model.dropout_rate": 0.5, "batch_size": 32}
    whole, _ = run(load_config, "mlp", 2, **dropped)
    got, _ = run(load_config, "mlp", 2, **dropped, **{"optim.accumulate_steps": 2})
    assert np.abs(got - whole).min() > 1e-3


def test_every_micro_batch_updates_the_running_statistics(load_config):
    small = {"model.stage_sizes": "1", "model.widths": "4", "model.stem_width": 4, "batch_size": 32}
    small |= {"augment": "resize(12)", "schedule.name": "constant", "optim.learning_rate": 0.0}
    _, one = run(load_config, "resnet", 1, **small)
    _, two = run(load_config, "resnet", 1, **small, **{"optim.accumulate_steps": 2})
    first = one.model_state["batch_stats"]["bn1"]["mean"]
    both = two.model_state["batch_stats"]["bn1"]["mean"]
    # The mean starts at zero. One update with the batch mean m gives 0.1·m; two updates with the
    # means a and b of the halves give 0.09·a + 0.1·b, which is about 0.19·m.
    np.testing.assert_allclose(both / first, 1.9, atol=0.1)


def test_frozen_parameters_stay_bit_equal_in_a_run(load_config):
    frozen = {
        "optim.rules": "blocks_0/attn/.*: freeze,.*embed.*: freeze",
        "optim.name": "adamw",
        "optim.weight_decay": 0.1,
        "ema.decay": 0.9,
        "optim.accumulate_steps": 2,
        "batch_size": 32,
    }
    parts = experiment.build(load_config("vit_ti16", {"mesh.devices": 1, **MIXED, **VIT, **frozen}))
    start = jax.device_get(parts.init()().params)
    _, state = run(load_config, "vit_ti16", 2, **VIT, **frozen)
    leaves = jax.tree_util.tree_leaves_with_path(start)

    def is_frozen(path):
        return path[0].key in ("patch_embed", "pos_embed") or "attn" in str(path)

    for (path, before), after, average in zip(
        leaves, jax.tree.leaves(state.params), jax.tree.leaves(state.ema["params"]), strict=True
    ):
        assert (before.tobytes() == after.tobytes()) == is_frozen(path)
        assert (before.tobytes() == average.tobytes()) == is_frozen(path)
    trained = sum(x.size for path, x in leaves if not is_frozen(path))
    assert sum(x.size for x in jax.tree.leaves(state.opt_state) if x.ndim) == 2 * trained


def test_averages_with_warmup(load_config):
    config = load_config("linear", {"ema.decay": 0.9, "ema.warmup": True})
    updates = np.arange(1, 120)
    got = [step.ema_decay(config, jnp.int32(t)) for t in updates]
    np.testing.assert_allclose(got, np.minimum(0.9, (1 + updates) / (10 + updates)), rtol=1e-6)
    averaged = {"ema.decay": 0.9, "ema.warmup": True, "augment": "resize(12)", "batch_size": 16}
    _, one = run(load_config, "linear", 1, **averaged)
    _, two = run(load_config, "linear", 2, **averaged)
    old, new = one.ema["params"]["head"]["kernel"], two.params["head"]["kernel"]
    expected = 3 / 12 * np.float64(old) + 9 / 12 * np.float64(new)
    np.testing.assert_allclose(two.ema["params"]["head"]["kernel"], expected, rtol=1e-5)


def test_micro_batches_must_divide_the_batch_of_a_device(load_config):
    overrides = {"batch_size": 96, "optim.accumulate_steps": 5, "mesh.devices": 8}
    message = "accumulate_steps=5 does not divide the 12 examples of a batch on each of 8 devices"
    with pytest.raises(InputError, match=message):
        experiment.build(load_config("linear", overrides))


def test_sums_over_a_hundred_million_examples():
    """Against NumPy in float64: one float32 sum of 781,250 equal losses is 0.7 % too small."""
    steps, batch, loss = 781_250, 128, 2.3
    new = {"loss": jnp.float32(batch * loss), "count": jnp.int32(batch), "correct": jnp.int32(100)}

    def body(carry, i):
        return step.add_sums(i, steps, *carry, new), None

    zero = jax.tree.map(jnp.zeros_like, new), jnp.zeros(())
    (sums, earlier), _ = jax.jit(lambda: jax.lax.scan(body, zero, jnp.arange(steps)))()
    mean = (float(sums["loss"]) + float(earlier)) / int(sums["count"])
    assert mean == pytest.approx(loss, rel=1e-4)
    assert (int(sums["count"]), int(sums["correct"])) == (batch * steps, 100 * steps)


def test_sums_start_again_after_each_metric_line():
    losses = np.random.default_rng(0).uniform(size=5000).astype(np.float32)

    def body(carry, x):
        i, loss = x
        return (sums := step.add_sums(i, 2500, *carry, {"loss": loss, "count": 1})), sums

    zero = {"loss": jnp.float32(7), "count": jnp.int32(3)}, jnp.float32(9)  # of an earlier interval
    _, (sums, earlier) = jax.lax.scan(body, zero, (jnp.arange(5000), losses))
    total = np.float64(sums["loss"]) + earlier
    expected = np.concatenate(
        [np.cumsum(losses[i : i + 2500], dtype=np.float64) for i in (0, 2500)]
    )
    np.testing.assert_allclose(total, expected, rtol=1e-5)
    np.testing.assert_array_equal(sums["count"], np.arange(5000) % 2500 + 1)


def test_more_examples_between_metric_lines_than_can_be_counted(load_config):
    long = {
        "total_epochs": "none",
        "total_steps": 2**30,
        "log.every_steps": 2**28,
        "batch_size": 16,
    }
    message = "config.log.every: 4,294,967,296 examples between two metric lines; at most 2,147,483"
    with pytest.raises(InputError, match=message):
        experiment.build(load_config("linear", long))
