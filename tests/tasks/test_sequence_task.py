"""The task image → sequence of classes: tokens, loss, causal mask, cached decoding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cv_jax import config as configs
from cv_jax import models, tasks
from cv_jax.errors import InputError
from cv_jax.models.decoder import BOS, EOS, PAD
from cv_jax.models.decoding import greedy
from cv_jax.tasks.batch import fold_views
from cv_jax.tasks.sequences import classes_of

LABEL = np.array([[4, 0, 7], [9, -1, -1], [-1, -1, -1], [1, 1, -1]], np.int32)
WRITTEN = np.array(
    [[7, 3, 10, EOS], [12, EOS, PAD, PAD], [EOS, PAD, PAD, PAD], [4, 4, EOS, PAD]], np.int32
)


@pytest.fixture(scope="module")
def config():
    c = configs.with_normalisation(configs.default("numbers", "image_transformer_ti"))
    c.loss.label_smoothing = 0.1
    return c


@pytest.fixture(scope="module")
def small():
    """A small model with large random weights, so that it writes different tokens."""
    model = models.create(
        "image_transformer_ti",
        image_size=(8, 24),
        patch_size=4,
        width=16,
        depth=1,
        num_heads=2,
        decoder_depth=1,
    )
    rng = np.random.default_rng(0)
    image = rng.normal(size=(4, 8, 24, 1)).astype(np.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), image, WRITTEN)

    def draw(path, x):
        name, spreads = path[-1].key, {"scale": (1, 0.1), "bias": (0, 0.1), "embedding": (0, 0.1)}
        mean, spread = spreads.get(name, (0, 0.8))
        return rng.normal(mean, spread, x.shape).astype(np.float32)

    return model, jax.tree_util.tree_map_with_path(draw, shapes), image


def test_tokens_of_the_classes(config, small):
    task = tasks.make_task(config, small[0])
    batch = {"image": small[2], "label": jnp.asarray(LABEL)}
    np.testing.assert_array_equal(task.written(batch), WRITTEN)
    image, before = task.inputs(batch, {})
    np.testing.assert_array_equal(before[:, 0], BOS)
    np.testing.assert_array_equal(before[:, 1:], WRITTEN[:, :-1])
    assert classes_of(WRITTEN) == [[4, 0, 7], [9], [], [1, 1]]
    assert task.classes == 10
    one = {"image": image, "label": jnp.array([4, 9, 0, 1])}
    np.testing.assert_array_equal(task.written(one), [[7, EOS], [12, EOS], [3, EOS], [4, EOS]])


def test_the_loss_is_the_mean_over_the_tokens_without_padding(config, small):
    task, rng = tasks.make_task(config, small[0]), np.random.default_rng(1)
    logits = rng.normal(scale=3, size=(4, 4, 13)).astype(np.float32)
    batch = {"image": small[2], "label": jnp.asarray(LABEL)}
    loss, right = task.score((jnp.asarray(logits), {}), batch)
    log_p = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    for i, length in enumerate((4, 2, 1, 3)):
        truth = np.full((length, 13), 0.1 / 13)
        truth[np.arange(length), WRITTEN[i, :length]] += 0.9
        np.testing.assert_allclose(loss[i], -(truth * log_p[i, :length]).sum() / length, rtol=1e-5)
        assert right[i] == (logits[i, :length].argmax(axis=-1) == WRITTEN[i, :length]).all()
    # Padding decides nothing.
    logits[1, 2:] += 5
    np.testing.assert_array_equal(task.score((jnp.asarray(logits), {}), batch)[0], loss)
    perfect = 20.0 * jax.nn.one_hot(WRITTEN, 13)
    assert task.score((perfect, {}), batch)[1].all()


@pytest.mark.usefixtures("full_optimisation")
def test_a_later_token_never_changes_an_earlier_logit(small):
    """The causal mask, bit for bit, in the whole program of the model."""
    model, variables, image = small
    run = jax.jit(lambda target: model.apply(variables, image, target)[0])
    target = np.array([[BOS, 5, 9, 3, 12, 7]] * 4, np.int32)
    before = np.asarray(run(target))
    for place in range(1, 6):
        for token in (PAD, 4, EOS):
            changed = target.copy()
            changed[:, place:] = token
            after = np.asarray(run(changed))
            assert (after[:, :place] == before[:, :place]).all()
            assert (after[:, place:] != before[:, place:]).any()


def test_cached_decoding_is_decoding_with_the_whole_model(small):
    model, variables, image = small
    cached = np.asarray(jax.jit(lambda x: greedy(model, variables, x, max_length=6))(image))
    run = jax.jit(lambda target: model.apply(variables, image, target)[0])
    target = np.full((4, 7), PAD, np.int32)
    target[:, 0] = BOS
    ended = np.zeros(4, bool)
    for t in range(6):
        token = np.asarray(run(target))[:, t].argmax(axis=-1)
        target[:, t + 1] = np.where(ended, PAD, token)
        ended |= target[:, t + 1] == EOS
    np.testing.assert_array_equal(cached, target[:, 1:])
    assert len(np.unique(cached)) > 2


def test_views_of_an_image_have_its_sequence():
    batch = {
        "image": jnp.zeros((4, 2, 8, 24, 1)),
        "label": jnp.asarray(LABEL),
        "position": jnp.arange(4),
    }
    folded = fold_views(batch)
    np.testing.assert_array_equal(folded["label"], np.repeat(LABEL, 2, axis=0))


def test_mixed_labels_are_refused(config, small):
    task = tasks.make_task(config, small[0])
    with pytest.raises(InputError, match="labels that are tokens cannot be mixed"):
        task.inputs({"image": small[2], "label": jnp.ones((4, 10))}, {})
