"""Sequences of tokens: the label of an image as a sequence, and text to text."""

import jax.numpy as jnp
import ml_collections

from cv_jax.errors import InputError
from cv_jax.models.decoder import BOS, EOS
from cv_jax.models.image_transformer import ImageTransformer
from cv_jax.models.transformer import Transformer
from cv_jax.tasks.losses import loss_function
from cv_jax.tasks.task import Task


def transcription(config: ml_collections.ConfigDict, model: ImageTransformer) -> Task:
    """Return the task: image → [BOS, token of the label, EOS]; class k is token 3 + k.

    The decoder reads the first two tokens and predicts the last two; the loss is the mean of the
    two cross-entropies. The prediction is the most likely token after BOS, over the whole
    vocabulary. The causal mask hides the label from this prediction.

    Raises:
      InputError: the config sets a loss other than softmax. The task itself raises it if the batch
        has mixed labels.
    """
    if config.loss.name != "softmax":
        raise InputError(f"config.loss.name={config.loss.name}: tokens need the loss softmax")
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


def translation(config: ml_collections.ConfigDict, model: Transformer) -> Task:
    """Reject the task tokens → tokens: there is no dataset of token pairs.

    Raises:
      InputError: always.
    """
    raise InputError(
        f"config.model.name: {config.model.name} maps tokens to tokens; only image models can be "
        f"trained on {config.data.name}"
    )
