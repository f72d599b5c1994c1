"""The train state, and the pure functions that a run applies to it.

Every draw of step `t` is a function of (seed, name of the stream, t, position in the global batch).
"""

import zlib
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import optax

from cv_jax import losses
from cv_jax.augment import Augmentation, apply_batch, apply_images
from cv_jax.models import mae
from cv_jax.optim import Optimiser


@flax.struct.dataclass
class TrainState:
    """All that a run must remember between two steps; a checkpoint holds this and nothing else.

    Attributes:
      step: updates made, int32.
      params: trainable parameters.
      model_state: the model's other collections, such as running statistics.
      opt_state: state of the optimiser.
      ema: averaged `{"params": …, **model_state}`, or none.
      sums: training metrics summed since they were last written.
    """

    step: jax.Array
    params: Any
    model_state: Any
    opt_state: Any
    ema: Any
    sums: dict[str, jax.Array]

    @property
    def eval_variables(self) -> dict[str, Any]:
        """The variables to evaluate: the averaged ones if there are any."""
        return self.ema or {"params": self.params, **self.model_state}


def stream(seed: int, name: str, step: jax.Array, impl: str = "threefry2x32") -> jax.Array:
    """The key of a named random stream at a step."""
    root = jax.random.key(seed, impl=impl)
    return jax.random.fold_in(jax.random.fold_in(root, zlib.crc32(name.encode())), step)


def init_state(
    model: nn.Module,
    optimiser: Optimiser,
    config: ml_collections.ConfigDict,
    image_shape: tuple[int, int, int],
    variables: dict[str, Any] | None = None,
) -> TrainState:
    """The state before the first step.

    Args:
      model: what is trained.
      optimiser: see `optim.make_optimiser`.
      config: the run's config.
      image_shape: (height, width, channels) of the model's input.
      variables: the model's, to start from instead of freshly initialised ones.
    """
    key = stream(config.seed, "init", 0)
    task, batch = losses.task(config, model), losses.blank_batch(image_shape)
    inputs = task.inputs(batch, {"mask": key})
    output, fresh = model.init_with_output(key, *inputs, train=False)
    variables = fresh if variables is None else variables
    sums = losses.metric_sums(*task.score(output, batch), jnp.ones(1))
    params, model_state = variables["params"], {k: v for k, v in variables.items() if k != "params"}
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        model_state=model_state,
        opt_state=optimiser.init(params),
        # A copy: the step donates its input, and one buffer cannot be given twice.
        ema=None if config.ema.decay is None else jax.tree.map(jnp.copy, dict(variables)),
        sums=jax.tree.map(jnp.zeros_like, sums),
    )


def normalise(config: ml_collections.ConfigDict, images: jax.Array) -> jax.Array:
    """Images on the scale 0…255 to the model's scale."""
    mean, std = jnp.asarray(config.data.mean) * 255, jnp.asarray(config.data.std) * 255
    return (images - mean) / std


def augment_batch(
    config: ml_collections.ConfigDict,
    augmentation: Augmentation,
    num_classes: int,
    step: jax.Array,
    batch: dict[str, jax.Array],
) -> dict[str, jax.Array]:
    """The batch that the model sees at `step`: augmented, normalised, erased, mixed.

    Args:
      config: the run's config.
      augmentation: the parsed `config.augment`.
      num_classes: classes of the dataset.
      step: updates made so far.
      batch: image uint8 [B, H, W, C] and label int [B], the rows of the global batch in order.

    Returns:
      image float32 [B, H, W, C] and label, int [B] or, after mixing, float32 [B, num_classes]; of
      several views image [B, views, H, W, C] and, after mixing, label [B, views, num_classes].
    """
    images, labels, views = batch["image"], batch["label"], augmentation.stream.views
    if views > 1:
        if images.ndim == 4:  # nothing was drawn on the host
            images = jnp.repeat(images[:, None], views, axis=1)
        of_views = [
            _augment_view(config, augmentation, num_classes, step, images[:, i], labels, i)
            for i in range(views)
        ]
        images, soft = (jnp.stack(parts, axis=1) for parts in zip(*of_views, strict=True))
        return {"image": images, "label": soft if augmentation.batch else labels}
    images, labels = _augment_view(config, augmentation, num_classes, step, images, labels)
    return {"image": images, "label": labels}


def _augment_view(config, augmentation, num_classes, step, images, labels, view=None):
    """One image of each example; `view` is its number where there are several."""

    def key(name):
        key = stream(config.seed, name, step)
        return key if view is None else jax.random.fold_in(key, view)

    def keys(name):
        positions = jnp.arange(len(images))
        return jax.vmap(lambda position: jax.random.fold_in(key(name), position))(positions)

    images = images.astype(jnp.float32)
    images = normalise(config, apply_images(augmentation.image, keys("augment"), images))
    images = apply_images(augmentation.erase, keys("erase"), images)
    if augmentation.batch:
        labels = losses.as_probabilities(labels, num_classes)
        images, labels = apply_batch(augmentation.batch, key("mix"), images, labels)
    return images, labels


def make_train_step(
    config: ml_collections.ConfigDict,
    gradient: Callable,
    optimiser: Optimiser,
    augmentation: Augmentation,
    num_classes: int,
    log_every: int,
) -> Callable:
    """`(state, batch, teacher_variables=None) → (state, metrics)`, pure.

    `metrics` holds `loss`, this step's, and `sums`, the metric sums over the steps since the last
    multiple of `log_every`; with `config.log.norms` also `norms`, those of this step's gradient and
    of the parameters after it. The batch is augmented and mixed as a whole, whatever `gradient`
    makes of it; see `gradient.make_gradient`.
    """

    def train_step(state: TrainState, batch: dict[str, jax.Array], teacher_variables=None):
        batch = augment_batch(config, augmentation, num_classes, state.step, batch)
        batch["position"] = jnp.arange(len(batch["image"]))
        rngs = {
            "dropout": stream(config.seed, "dropout", state.step, config.dropout_rng),
            "mask": stream(config.seed, "mask", state.step),
        }
        trained, frozen = optimiser.split(state.params)
        (loss, (sums, model_state)), grads = gradient(
            batch, (trained, frozen), state.model_state, state.sums, rngs, teacher_variables
        )
        updates, opt_state = optimiser.update(grads, state.opt_state, trained)
        params = optimiser.join(optax.apply_updates(trained, updates), frozen)
        ema = state.ema
        if ema is not None:
            decay = ema_decay(config, state.step + 1)
            ema = jax.tree.map(
                # Of equal values this is the same value: what is frozen stays so in the average.
                lambda old, new: old + (1 - decay) * (new - old),
                ema,
                {"params": params, **model_state},
            )
        fresh = state.step % log_every == 0
        sums = jax.tree.map(lambda old, new: jnp.where(fresh, new, old + new), state.sums, sums)
        state = TrainState(state.step + 1, params, model_state, opt_state, ema, sums)
        metrics = {"loss": loss, "sums": sums}
        if config.log.norms:
            metrics["norms"] = {**layer_norms("gradient", grads), **layer_norms("weight", params)}
        return state, metrics

    return train_step


def ema_decay(config: ml_collections.ConfigDict, updates: jax.Array) -> jax.Array:
    """Decay of the averages after so many updates.

    With `ema.warmup` at most (1 + t)/(10 + t), as in TensorFlow's ExponentialMovingAverage: the
    first parameters, which have learnt nothing, are forgotten soon.
    """
    decay = config.ema.decay
    return jnp.minimum(decay, (1 + updates) / (10 + updates)) if config.ema.warmup else decay


def layer_norms(what: str, tree: Any) -> dict[str, jax.Array]:
    """Euclidean norm of each layer, by name `what/layer`, and of all of them, as `what`.

    A layer is a module that holds parameters itself; scanned blocks count as one. The arrays are
    looked at behind a barrier: what computes them is compiled as if nobody looked.
    """
    squares: dict[str, jax.Array] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(jax.lax.optimization_barrier(tree)):
        layer = jax.tree_util.keystr(path[:-1], simple=True, separator="/")
        total = jnp.sum(jnp.square(leaf.astype(jnp.float32)))
        squares[layer] = squares.get(layer, 0) + total
    norms = {what: jnp.sqrt(sum(squares.values()))}
    return norms | {f"{what}/{layer}": jnp.sqrt(x) for layer, x in squares.items()}


@jax.jit
def all_finite(tree: Any) -> jax.Array:
    """Whether no value of any array is NaN or infinite."""
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]).all()


def make_eval_step(
    config: ml_collections.ConfigDict, model: nn.Module, average: str = "probabilities"
) -> Callable:
    """`(variables, batch) → answers`, pure: what the metrics need of each row, as arrays [B].

    Answers are `position` and `loss`, and of a task with classes also `label`, `prediction`,
    `rank` (of the label among the scores, 0 if it is the answer), `confidence` (probability of the
    prediction), `nll` (cross-entropy without label smoothing) and `brier` (sum of the squared
    differences between probabilities and truth).

    The image of a batch is uint8 [B, H, W, C], or views of it: a tuple of [B, V, H, W, C], one for
    each size. The answer is then that of the averaged views, the mean of their probabilities or of
    their scores as `average` says. What is drawn for an example (MAE's removed patches) is the same
    in every evaluation.
    """
    task, forward = losses.task(config, model), _make_forward(config, model, average)

    def eval_step(variables, batch):
        output, batch = forward(variables, batch)
        answers = {"position": batch["position"], "loss": task.score(output, batch)[0]}
        if task.class_scores is not None:
            scores = task.class_scores(output)
            answers.update(losses.class_answers(config, scores, batch["label"]))
        return answers

    return eval_step


def make_classifier(
    config: ml_collections.ConfigDict, model: nn.Module, average: str = "probabilities"
) -> Callable:
    """`(variables, batch) → probabilities` of the classes, float32 [B, K], pure; K may exceed the
    number of classes where the task tells more apart. For the batch see `make_eval_step`."""
    task, forward = losses.task(config, model), _make_forward(config, model, average)

    def classify(variables, batch):
        output, _ = forward(variables, batch)
        return losses.probabilities(config)(task.class_scores(output).astype(jnp.float32))

    return classify


def _make_forward(config, model, average):
    """`(variables, batch) → (what the model returns, the batch that it saw)`, views averaged."""
    task = losses.task(config, model)

    def once(variables, batch, images):
        batch = {**batch, "image": normalise(config, images.astype(jnp.float32))}
        rngs = {"mask": stream(config.seed, "eval_mask", 0)}
        return model.apply(variables, *task.inputs(batch, rngs), train=False), batch

    def forward(variables, batch):
        if not isinstance(batch["image"], tuple):
            return once(variables, batch, batch["image"])
        scores = []
        for views in batch["image"]:
            output, _ = once(variables, batch, views.reshape(-1, *views.shape[2:]))
            scores.append(task.class_scores(output).reshape(*views.shape[:2], -1))
        averaged = losses.average_views(config, jnp.concatenate(scores, axis=1), average)
        return (averaged, {}), batch

    return forward


def make_features(config: ml_collections.ConfigDict, model: nn.Module) -> Callable:
    """`(variables, batch) → features`, float32 [B, D] by name in forward order, pure.

    One of more than two axes is averaged over all but the first and the last. Those of a masked
    autoencoder are its encoder's, which then sees all patches.
    """
    encoder = mae.encoder(model) if isinstance(model, mae.MAE) else model
    task = losses.task(config, model)

    def features(variables, batch):
        batch = {**batch, "image": normalise(config, batch["image"].astype(jnp.float32))}
        inputs = (batch["image"],) if encoder is not model else task.inputs(batch, {})
        _, found = encoder.apply(variables, *inputs, train=False)
        return OrderedDict(
            (name, x.astype(jnp.float32).mean(axis=tuple(range(1, x.ndim - 1))))
            for name, x in found.items()
            if x.ndim > 1
        )

    return features
