"""The train state and one update, as pure functions."""

from collections.abc import Callable
from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections

from cv_jax import models, tasks
from cv_jax.augment import Augmentation
from cv_jax.augment.batch import augment_batch, normalise
from cv_jax.models import precision
from cv_jax.models.layers import at_least_float32
from cv_jax.optim.optimisers import Optimiser
from cv_jax.random_streams import stream_key
from cv_jax.tasks.batch import blank_batch
from cv_jax.training.objective import metric_sums

BLOCK = 1024  # steps of one float32 sum of losses


@flax.struct.dataclass
class TrainState:
    """The state of a run between two steps, and the content of a checkpoint.

    Attributes:
      step: updates made, int32.
      params: trainable parameters; their dtype is that of `precision.stored`.
      model_state: the model's other collections, such as running statistics.
      opt_state: state of the optimiser.
      ema: averaged `{"params": …, **model_state}`, at least float32; `None` without averages.
      sums: sums of the training metrics since the last metric line; see `add_sums`.
      earlier_loss: float32, the sum of the loss since that line that `sums` does not hold.
    """

    step: jax.Array
    params: Any
    model_state: Any
    opt_state: Any
    ema: Any
    sums: dict[str, jax.Array]
    earlier_loss: jax.Array

    @property
    def eval_variables(self) -> dict[str, Any]:
        """The variables for evaluation: the averages, or the current variables without averages."""
        return self.ema or {"params": self.params, **self.model_state}


def init_state(
    model: nn.Module,
    optimiser: Optimiser,
    config: ml_collections.ConfigDict,
    input_shape: tuple[int, ...],
    variables: dict[str, Any] | None = None,
    images: jax.Array | None = None,
) -> TrainState:
    """Return the state before the first step.

    Args:
      model: the model to train.
      optimiser: see `optim.make_optimiser`.
      config: the run's config.
      input_shape: shape of one example; see `Experiment`.
      variables: initial variables of the model; `None` to draw them from the seed.
      images: uint8 [N, H, W, C], for drawn variables that depend on images; see `Entry.data_init`.
    """
    key = stream_key(config.seed, "init", 0)
    model = precision.stored(model, config.optim.master_weights)
    task, batch = tasks.make_task(config, model), blank_batch(input_shape)
    inputs = task.inputs(batch, {"mask": key})
    output, fresh = model.init_with_output(key, *inputs, train=False)
    if variables is None:
        variables = dict(fresh)
        if images is not None:
            images = normalise(config, images.astype(jnp.float32))
            variables = models.MODELS[config.model.name].data_init.apply(variables, images)
    sums = metric_sums(*task.score(output, batch), jnp.ones(1))
    params, model_state = variables["params"], {k: v for k, v in variables.items() if k != "params"}
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        model_state=model_state,
        opt_state=optimiser.init(params),
        # A copy, because the step donates its input and one buffer cannot be donated twice.
        ema=None if config.ema.decay is None else jax.tree.map(_copy, dict(variables)),
        sums=jax.tree.map(jnp.zeros_like, sums),
        earlier_loss=jnp.zeros(()),
    )


def make_train_step(
    config: ml_collections.ConfigDict,
    gradient: Callable,
    optimiser: Optimiser,
    augmentation: Augmentation,
    num_classes: int,
    log_every: int,
) -> Callable:
    """Return `(state, batch, teacher_variables=None) → (state, metrics)`, pure.

    `metrics` has the `loss` of this step and `sums`, the metric sums over the steps since the last
    multiple of `log_every`, with `earlier_loss`; with `config.log.norms` also `norms`, the layer
    norms of this step's gradient and of the updated parameters. The whole batch is augmented and
    mixed before `gradient` splits it; see `gradient.make_gradient`.
    """

    def train_step(state: TrainState, batch: dict[str, jax.Array], teacher_variables=None):
        batch = augment_batch(config, augmentation, num_classes, state.step, batch)
        batch = {**batch, "position": jnp.arange(len(batch["label"]))}
        rngs = {
            "dropout": stream_key(config.seed, "dropout", state.step, config.dropout_rng),
            "mask": stream_key(config.seed, "mask", state.step),
        }
        trained, frozen = optimiser.split(state.params)
        (loss, (sums, model_state)), grads = gradient(
            batch, (trained, frozen), state.model_state, state.sums, rngs, teacher_variables
        )
        # The update has the same rounding whether or not the norms use the gradient, too.
        grads = jax.lax.optimization_barrier(grads)
        updates, opt_state = optimiser.update(grads, state.opt_state, trained)
        params = optimiser.join(jax.tree.map(_updated, trained, updates), frozen)
        ema = state.ema
        if ema is not None:
            decay = ema_decay(config, state.step + 1)
            ema = jax.tree.map(
                # Exact for equal values, so the averages of frozen parameters are frozen too.
                lambda old, new: old + (1 - decay) * (at_least_float32(new) - old),
                ema,
                {"params": params, **model_state},
            )
        sums, earlier = add_sums(state.step, log_every, state.sums, state.earlier_loss, sums)
        state = TrainState(state.step + 1, params, model_state, opt_state, ema, sums, earlier)
        metrics = {"loss": loss, "sums": {**sums, "earlier_loss": earlier}}
        if config.log.norms:
            metrics["norms"] = {**layer_norms("gradient", grads), **layer_norms("weight", params)}
        return state, metrics

    return train_step


def _copy(x: jax.Array) -> jax.Array:
    return jnp.copy(precision.widened(x))


def _updated(x: jax.Array, update: jax.Array) -> jax.Array:
    return precision.rounded(x + update, x.dtype)


def add_sums(
    step: jax.Array,
    log_every: int,
    sums: dict[str, jax.Array],
    earlier_loss: jax.Array,
    new: dict[str, jax.Array],
) -> tuple[dict[str, jax.Array], jax.Array]:
    """Add the metric sums of a step; they start again at each multiple of `log_every`.

    A float32 sum of millions of losses would lose the digits of each. Therefore `loss` starts again
    after `BLOCK` steps, and `earlier_loss` adds the sums of these blocks.

    Returns:
      `(sums, earlier_loss)`; the loss since the multiple of `log_every` is the sum of both.
    """
    place = step % log_every
    fresh = starts = place == 0
    earlier_loss = jnp.where(fresh, 0, earlier_loss)
    if log_every > BLOCK:
        starts = place % BLOCK == 0
        earlier_loss += jnp.where(starts & ~fresh, sums["loss"], 0)
    added = jax.tree.map(lambda old, new: jnp.where(fresh, new, old + new), sums, new)
    loss = jnp.where(starts, new["loss"], sums["loss"] + new["loss"])
    return {**added, "loss": loss}, earlier_loss


def ema_decay(config: ml_collections.ConfigDict, updates: jax.Array) -> jax.Array:
    """Return the decay of the averages after `updates` updates.

    With `ema.warmup` it is at most (1 + t)/(10 + t), as in TensorFlow's ExponentialMovingAverage,
    so the initial parameters soon lose their weight.
    """
    decay = config.ema.decay
    return jnp.minimum(decay, (1 + updates) / (10 + updates)) if config.ema.warmup else decay


def layer_norms(prefix: str, tree: Any) -> dict[str, jax.Array]:
    """Return the Euclidean norm of each layer, as `prefix/layer`, and of the tree, as `prefix`.

    A layer is a module with parameters of its own; scanned blocks count as one layer. The
    optimisation barrier keeps XLA from fusing the norms into the code that computes the arrays, so
    the training is bit-equal with and without norms.
    """
    squares: dict[str, jax.Array] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(jax.lax.optimization_barrier(tree)):
        layer = jax.tree_util.keystr(path[:-1], simple=True, separator="/")
        total = jnp.sum(jnp.square(leaf.astype(jnp.float32)))
        squares[layer] = squares.get(layer, 0) + total
    norms = {prefix: jnp.sqrt(sum(squares.values()))}
    return norms | {f"{prefix}/{layer}": jnp.sqrt(x) for layer, x in squares.items()}
