"""Sequences of tokens: the classes in an image as a sequence, and sequence to sequence."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from cv_jax.errors import InputError
from cv_jax.models.decoder import BOS, EOS, PAD
from cv_jax.models.image_transformer import ImageTransformer
from cv_jax.models.transformer import Transformer
from cv_jax.tasks.losses import loss_function
from cv_jax.tasks.task import Task


def transcription(config: ml_collections.ConfigDict, model: ImageTransformer) -> Task:
    """Return the task: image → sequence of tokens; class k is token 3 + k.

    With `config.data.target` it is `sequence_of_classes`, else `one_class`.

    Raises:
      InputError: the config sets a loss other than softmax. The task itself raises it if the batch
        has mixed labels.
    """
    _check_loss(config)
    if config.data.target is None:
        return one_class(config, model)
    return sequence_of_classes(config, model, lambda batch: batch["image"])


def translation(config: ml_collections.ConfigDict, model: Transformer) -> Task:
    """Return the task: sequence → sequence of tokens; class k is token 3 + k.

    The model reads the tokens of `sequence`, EOS and PAD. It writes as in `sequence_of_classes`.

    Raises:
      InputError: the config sets a loss other than softmax.
    """
    _check_loss(config)
    return sequence_of_classes(config, model, lambda batch: tokens_of(batch["sequence"]))


def _check_loss(config: ml_collections.ConfigDict) -> None:
    if config.loss.name != "softmax":
        raise InputError(f"config.loss.name={config.loss.name}: tokens need the loss softmax")


def sequence_of_classes(
    config: ml_collections.ConfigDict,
    model: ImageTransformer | Transformer,
    read: Callable[[dict], jax.Array],
) -> Task:
    """Return the task: what the model reads → tokens of the classes of the label in order, EOS.

    `read` returns the source of the model from a batch.

    Teacher forcing (Williams and Zipser, 1989): the decoder reads BOS and the true tokens, and
    predicts each token from the true tokens before it. The loss of an example is the mean
    cross-entropy of its tokens with EOS; its output is right if all of them are. PAD after EOS has
    no loss, and the causal mask hides it from the tokens before.
    """
    loss_of = loss_function(config)

    def written(batch):
        label = batch["label"]
        if not jnp.issubdtype(label.dtype, jnp.integer):
            raise InputError("config.augment: labels that are tokens cannot be mixed")
        return tokens_of(label[:, None] if label.ndim == 1 else label)  # a sequence of one

    def inputs(batch, rngs):
        before = written(batch)[:, :-1]
        return read(batch), jnp.pad(before, ((0, 0), (1, 0)), constant_values=BOS)

    def score(output, batch):
        logits, tokens = output[0], written(batch)
        counted = tokens != PAD
        loss = loss_of(logits.reshape(-1, logits.shape[-1]), tokens.reshape(-1))
        loss = jnp.where(counted, loss.reshape(tokens.shape), 0).sum(axis=1) / counted.sum(axis=1)
        return loss, ((logits.argmax(axis=-1) == tokens) | ~counted).all(axis=1)

    return Task(inputs, score, model.vocab_size - (EOS + 1), written=written)


def tokens_of(classes: jax.Array) -> jax.Array:
    """Return the tokens of sequences of classes, int32 [B, T + 1]: class k is 3 + k, EOS, PAD.

    `classes` is int [B, T], with a negative number after the last class.
    """
    tokens = jnp.where(classes < 0, PAD, EOS + 1 + classes)
    tokens = jnp.pad(tokens, ((0, 0), (0, 1)), constant_values=PAD)
    end = (classes >= 0).sum(axis=1, keepdims=True)
    return jnp.where(jnp.arange(tokens.shape[1]) == end, EOS, tokens).astype(jnp.int32)


def classes_of(tokens: jax.Array) -> list[list[int]]:
    """Return the classes in rows of written tokens [B, T]: those before EOS.

    A token that is no class, PAD or BOS, is negative.
    """
    rows = []
    for row in np.asarray(tokens).tolist():
        row = row[: row.index(EOS)] if EOS in row else row
        rows.append([token - (EOS + 1) for token in row])
    return rows


def one_class(config: ml_collections.ConfigDict, model: ImageTransformer) -> Task:
    """Return the task: image → [BOS, token of the label, EOS].

    The decoder reads the first two tokens and predicts the last two; the loss is the mean of the
    two cross-entropies. The prediction is the most likely token after BOS, over the whole
    vocabulary. The causal mask hides the label from this prediction.
    """
    loss_of = loss_function(config)

    def tokens(batch):
        if batch["label"].ndim != 1:
            raise InputError("config.augment: labels that are tokens cannot be mixed")
        return EOS + 1 + batch["label"]

    def inputs(batch, rngs):
        token = tokens(batch)
        return batch["image"], jnp.stack([jnp.full_like(token, BOS), token], axis=1)

    def score(output, batch):
        logits, token = output[0], tokens(batch)
        first = loss_of(logits[:, 0], token)
        second = loss_of(logits[:, 1], jnp.full_like(token, EOS))
        return (first + second) / 2, logits[:, 0].argmax(axis=-1) == token

    def class_scores(output):  # the whole vocabulary, rotated so that the classes come first
        return jnp.roll(output[0][:, 0], -(EOS + 1), axis=-1)

    return Task(inputs, score, model.vocab_size - (EOS + 1), class_scores)
