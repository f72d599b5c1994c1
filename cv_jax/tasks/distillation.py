"""Knowledge distillation: what a student learns of a trained net, its teacher; see teacher.py.

Hinton, Vinyals and Dean, "Distilling the knowledge in a neural network", 2015, arXiv:1503.02531:
the student learns the teacher's probabilities beside the labels. Touvron et al., 2021 (DeiT),
arXiv:2012.12877, section 4: it learns the teacher's decisions ("hard"); a net with a distillation
token learns the labels with its class token and the teacher with the other.
"""

from collections.abc import Callable

import jax
import ml_collections
import optax


def soft(logits: jax.Array, teacher: jax.Array, temperature: float) -> jax.Array:
    """τ² times the divergence KL(teacher ‖ student) [B] of scores [B, K] divided by τ.

    The square keeps the size of gradients, which shrink by it (Hinton et al., section 2).
    """
    student = jax.nn.log_softmax(logits / temperature)
    return temperature**2 * optax.kl_divergence(student, jax.nn.softmax(teacher / temperature))


def hard(logits: jax.Array, teacher: jax.Array) -> jax.Array:
    """Cross-entropy [B] of scores [B, K] with the class that the teacher finds likeliest."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, teacher.argmax(axis=-1))


def loss_function(config: ml_collections.ConfigDict) -> Callable:
    """`(loss on labels [B], student's scores, teacher's scores) → loss [B]`.

    (1 − α) times the first and α times what the student has to learn of the teacher (Touvron et
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
