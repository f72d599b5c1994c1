"""Losses of knowledge distillation from a teacher model; see `training.teacher`.

Hinton, Vinyals and Dean, "Distilling the knowledge in a neural network", 2015, arXiv:1503.02531:
the student learns the labels and the teacher's probabilities ("soft"). Touvron et al., 2021 (DeiT),
arXiv:2012.12877, section 4: the student learns the labels and the teacher's predicted classes
("hard"). A model with a distillation token learns the labels with its class token and the teacher
with its distillation token.
"""

from collections.abc import Callable

import jax
import ml_collections
import optax


def soft(logits: jax.Array, teacher: jax.Array, temperature: float) -> jax.Array:
    """Return τ²·KL(teacher ‖ student) [B] of logits [B, K] divided by the temperature τ.

    The factor τ² keeps the size of the gradients independent of τ (Hinton et al., section 2).
    """
    student = jax.nn.log_softmax(logits / temperature)
    return temperature**2 * optax.kl_divergence(student, jax.nn.softmax(teacher / temperature))


def hard(logits: jax.Array, teacher: jax.Array) -> jax.Array:
    """Return the cross-entropy [B] of logits [B, K] with the teacher's most likely class."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, teacher.argmax(axis=-1))


def loss_function(config: ml_collections.ConfigDict) -> Callable:
    """Return `(loss on labels [B], student's logits, teacher's logits) → loss [B]`.

    The result is (1 − α) times the loss on labels plus α times the loss on the teacher (Touvron et
    al., equations 2 and 3).
    """
    c = config.distill

    def loss(on_labels, logits, teacher):
        if c.kind == "hard":
            of_teacher = hard(logits, teacher)
        else:
            of_teacher = soft(logits, teacher, c.temperature)
        return (1 - c.alpha) * on_labels + c.alpha * of_teacher

    return loss
