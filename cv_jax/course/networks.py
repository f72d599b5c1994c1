"""Trained networks of trials, opened for measurements and pictures."""

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cv_jax import config as configs
from cv_jax.course.chapter import Picture
from cv_jax.data import pipeline, splits
from cv_jax.evaluation import plan
from cv_jax.inspect import templates
from cv_jax.inspect.look import ANALYSES, DoesNotApply, Subject
from cv_jax.interop import trained
from cv_jax.interop.trained import Trained
from cv_jax.report import trained_net
from cv_jax.run import json_files

IMAGES = 32  # images of a measurement
SHOWN = 4  # images of a picture


def _quiet(line: str) -> None:
    """Notes about weights belong to commands, not to measurements."""


@functools.lru_cache(maxsize=2)  # a trial is measured and drawn several times
def opened(path: Path) -> Trained:
    """Return the network of the newest checkpoint of a run.

    Raises:
      InputError: there is no sound checkpoint.
    """
    return trained.open_trained(str(path), {}, None, _quiet)


def subject(path: Path, count: int = SHOWN, initial: bool = False) -> Subject:
    """Return a network with images of its evaluation split, for the analyses of `look`.

    Args:
      path: run directory.
      count: number of images, spread evenly over the split.
      initial: whether the analyses also see the network before its training.
    """
    net = opened(path)
    found = trained_net.subject(net, trained.split_source(net, None, None), count)
    if initial:
        return found._replace(initial=lambda: initial_variables(path))
    return found


def initial_variables(path: Path) -> dict[str, Any]:
    """Return the variables of a run before its training."""
    net = opened(path)
    found = subject(path, 1)
    rngs = {n: jax.random.key(net.config.seed) for n in ("params", "dropout", "mask")}
    return jax.jit(net.model.init)(rngs, found.images, *found.others)


def picture(
    path: Path, analysis: str, title: str, *, name: str = "", initial: bool = False
) -> Picture:
    """Return a picture of an analysis of `look`.

    Args:
      path: run directory.
      analysis: a name in `look.ANALYSES`.
      title: of the picture.
      name: of the finding; default: the first one with a picture.
      initial: whether the analysis also sees the network before its training.
    """
    for finding in ANALYSES[analysis](subject(path, initial=initial)):
        if finding.figure is not None and name in ("", finding.name):
            return Picture(title, f"{finding.text[0].upper()}{finding.text[1:]}.", finding.figure)
    raise DoesNotApply(f"{analysis} has no picture of {path.name}")


def class_templates(path: Path) -> tuple[templates.Templates, tuple[str, ...]]:
    """Return templates and class averages of a linear classifier, and the names of its classes."""
    net = opened(path)
    config = net.config
    source = splits.open_train(config)
    fixed = plan.preprocessing(
        config.eval_preprocess, config.image_size, "config.eval_preprocess"
    ).fixed
    pixels, labels = pipeline.prepare(source, fixed, "memory").cached
    kernel = np.asarray(net.weights.variables["params"]["head"]["kernel"])
    names = net.class_names() or source.classes or tuple(map(str, range(source.num_classes)))
    return templates.compare(kernel, config.data.std, pixels, labels), tuple(names)


def lines(path: Path) -> list[dict[str, Any]]:
    """Return the metric lines of a run."""
    return json_files.read_lines(path / "metrics.jsonl")


def config_of(path: Path):
    """Return the config of a run."""
    return configs.restore(json_files.read_record(path / "config.json"))


def accuracy(path: Path, predict) -> float:
    """Return the accuracy on the evaluation split of another forward pass.

    Args:
      path: run directory.
      predict: (network, normalised images [B, H, W, C]) → logits [B, classes].
    """
    net = opened(path)
    source = trained.split_source(net, None, None)
    run, right, count = jax.jit(functools.partial(predict, net)), 0, 0
    for batch in trained.batches(net, source, min(256, len(source))):
        kept = batch["position"] < len(source)
        images, *_ = trained.inputs(net, batch)
        chosen = np.asarray(jnp.argmax(run(images), axis=-1))
        right += int((chosen == batch["label"])[kept].sum())
        count += int(kept.sum())
    return right / count


def first_step(path: Path, split: str, metric: str, reached: float) -> float:
    """Return the first step at which a metric reaches a value; the last step if it never does."""
    found = [line for line in lines(path) if line["split"] == split and metric in line]
    return float(next((x["step"] for x in found if x[metric] >= reached), found[-1]["step"]))
