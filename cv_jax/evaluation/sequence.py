"""The kind "sequence": metrics of decoded sequences, by greedy search and by beam search.

Options: `max_length`, the most tokens that are decoded, EOS among them; `beams`, the number of
beams, 0 for greedy search only; and `length_penalty`, see `decoding.beam_search`. Their defaults
are `config.eval`.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import ml_collections

from cv_jax import tasks
from cv_jax.augment.batch import normalise
from cv_jax.config.fields import FIELDS
from cv_jax.errors import InputError
from cv_jax.evaluation import checks, metrics, sequence_metrics
from cv_jax.evaluation.kind import Evaluation, Experiment, Kind, Option, Request, Scores
from cv_jax.evaluation.run import predict
from cv_jax.evaluation.step import make_forward
from cv_jax.models import decoding
from cv_jax.models.precision import as_read
from cv_jax.tasks import Task

OPTIONS = {
    name: Option(FIELDS[f"eval.{name}"].type | None, None)
    for name in ("max_length", "beams", "length_penalty")
}


def make_decoding_step(
    config: ml_collections.ConfigDict,
    model: nn.Module,
    max_length: int,
    beams: int,
    length_penalty: float,
) -> Callable:
    """Return the pure function `(variables, batch) → predictions`.

    Predictions are `position` and `loss` (of teacher forcing) [B], and tokens int [B, max_length]:
    `truth`, and what the searches write, `greedy` and with beams the best of `beam`.
    """
    task, forward = tasks.make_task(config, model), make_forward(config, model)

    def step(variables, batch):
        output, batch = forward(variables, batch)
        truth, variables = task.written(batch), as_read(model, variables)
        source, limit = task.inputs(batch, {})[0], dict(max_length=max_length)
        predictions = {
            "position": batch["position"],
            "loss": task.score(output, batch)[0],
            "truth": jnp.pad(truth, ((0, 0), (0, max_length - truth.shape[1]))),
            "greedy": decoding.greedy(model, variables, source, **limit),
        }
        if beams:
            found, _ = decoding.beam_search(
                model, variables, source, **limit, beams=beams, alpha=length_penalty
            )
            predictions["beam"] = found[:, 0]
        return predictions

    return step


def make_writer(
    config: ml_collections.ConfigDict, model: nn.Module, max_length: int, beams: int
) -> Callable:
    """Return the pure function `(variables, images uint8 [B, H, W, C]) → sequences`.

    Sequences are `(tokens int [B, beams, max_length], log-probabilities [B, beams])`, the most
    probable first, of a beam search without length penalty; −inf where there are fewer.
    """

    def write(variables, images):
        source = normalise(config, images.astype(jnp.float32))
        limits = dict(max_length=max_length, beams=beams, alpha=0.0)
        return decoding.beam_search(model, as_read(model, variables), source, **limits)

    return write


def _suits(task: Task) -> bool:
    return task.written is not None


def _check(request: Request) -> tuple[dict[str, Any], None]:
    checks.require_same_classes(request)
    checks.refuse_views(request)
    options = dict(request.options)
    for name in OPTIONS:
        if options[name] is None:
            options[name] = request.config.eval[name]
        FIELDS[f"eval.{name}"].check(options[name])
    longest, allowed = (request.source.length or 1) + 1, options["max_length"]
    if longest > allowed:
        raise InputError(
            f"{request.field('max_length')}={allowed}: {request.options['split']} of "
            f"{request.source.name} has sequences of {longest} tokens with EOS"
        )
    if not checks.has_stated_size(request):
        chosen = [options[name] for name in OPTIONS]
        checks.trace(request, make_decoding_step(request.config, request.model, *chosen))
    return options, None


def _make(experiment: Experiment, evaluation: Evaluation) -> Callable[[Any], Scores]:
    chosen = [evaluation.options[name] for name in OPTIONS]
    step = experiment.evaluation_step(make_decoding_step, *chosen)

    def score(variables):
        found = predict(experiment, step, variables, evaluation.images, evaluation.views)
        written = {name: found[name] for name in ("greedy", "beam") if name in found}
        summary = sequence_metrics.summary(found["truth"], written)
        return Scores(
            {"loss": metrics.mean(found["loss"]), **summary},
            {"by_length": sequence_metrics.by_length(found["truth"], written)},
        )

    return score


KIND = Kind(OPTIONS, _suits, _check, _make)
