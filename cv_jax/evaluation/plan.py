"""Which evaluations a config asks for: the run's own, and those of `config.eval.extra`.

    knn(k=20, every_epochs=5)|classification(name="shifted", preprocess="resize(36)|ten_crop(32)")

Each has a name, which is the `split` of its metric lines, and data and an interval of its own. The
string is read as literals and never evaluated. Every mistake is found here, before the first step.
"""

import ast
import dataclasses
import difflib
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import ml_collections
import numpy as np
from flax.errors import FlaxError

from cv_jax import augment, tasks
from cv_jax import config as configs
from cv_jax.augment.stream import ONCE
from cv_jax.augment.views import apply_views
from cv_jax.config.fields import FIELDS, UNITS
from cv_jax.config.presets import PRESETS
from cv_jax.config.values import check
from cv_jax.data import pipeline
from cv_jax.data.source import Source, check_classes
from cv_jax.data.splits import open_split
from cv_jax.data.subsets import Subset
from cv_jax.devices import memory
from cv_jax.errors import InputError
from cv_jax.evaluation.step import make_eval_step, make_features
from cv_jax.progress import counted
from cv_jax.tasks.batch import blank_batch

AVERAGES = ("probabilities", "logits")

# Option → type and default. What is none is taken from the config; see `plan`.
_COMMON: dict[str, tuple[Any, Any]] = {
    "name": (str | None, None),
    "dataset": (str | None, None),
    "split": (str | None, None),
    "preprocess": (str | None, None),
    **{f"every_{unit}": (float | None, None) for unit in UNITS},
}
_PROBE = {
    **_COMMON,
    "feature": (str, "pre_logits"),
    "train_split": (str | None, None),
    "train_examples": (int | None, None),
}
KINDS: dict[str, dict[str, tuple[Any, Any]]] = {
    "classification": {**_COMMON, "average": (str | None, None)},
    "reconstruction": _COMMON,
    "knn": {**_PROBE, "k": (int, 20), "temperature": (float | None, 0.07)},
    "logistic_regression": {**_PROBE, "C": (float | None, None), "standardise": (bool, True)},
}
MOST = 100  # evaluations besides the run's own
PROBES = ("knn", "logistic_regression")


class Evaluation(NamedTuple):
    """One thing that is measured of a run.

    Attributes:
      name: the `split` of its metric lines; the run's own is "test".
      kind: one of `KINDS`.
      every: interval in steps; 0 is at the end only. All are made at the end.
      images: the split that is scored.
      views: test-time views of each image.
      train_images: what a probe learns from, else none.
      num_classes: classes of the dataset.
      classes: their names, where it has any.
      options: all options of the kind, resolved.
      fingerprint: what identifies the data.
    """

    name: str
    kind: str
    every: int
    images: pipeline.Images
    views: tuple[Callable, ...]
    train_images: pipeline.Images | None
    num_classes: int
    classes: tuple[str, ...] | None
    options: dict[str, Any]
    fingerprint: dict[str, Any]


def parse(text: str, field: str = "config.eval.extra") -> list[tuple[str, dict[str, Any]]]:
    """The kind and the options, defaults filled in, of each evaluation in `kind(option=…)|…`.

    Raises:
      InputError: an unknown kind or option, a value of the wrong type, a name given twice.
    """
    try:
        nodes = _terms(ast.parse(text.strip(), mode="eval").body) if text.strip() else []
        calls = [_call(node) for node in nodes]
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        raise InputError(
            f"{field}: {text!r} is not of the form kind(option=literal, …)|kind(…)"
        ) from None
    if len(calls) > MOST:
        raise InputError(f"{field}: {len(calls)} evaluations; at most {MOST} are possible")
    asked, names = [], ["train", "test", "norms"]
    for kind, given in calls:
        if kind not in KINDS:
            raise InputError(f"{field}: unknown kind {kind!r}{_nearest(kind, KINDS)}")
        options = {name: default for name, (_, default) in KINDS[kind].items()}
        for name, value in given.items():
            if name not in options:
                raise InputError(f"{field}: {kind} has no option {name!r}{_nearest(name, options)}")
            options[name] = check(value, KINDS[kind][name][0], f"{field}: {kind}: {name}")
        options["name"] = name = options["name"] or kind
        if not name.replace("_", "a").replace("-", "a").isalnum():
            raise InputError(f"{field}: name {name!r} may hold letters, digits, - and _ only")
        if name in names:
            raise InputError(f"{field}: the name {name!r} is taken; give another by name=…")
        names.append(name)
        asked.append((kind, options))
    return asked


def plan(
    config: ml_collections.ConfigDict,
    model: nn.Module,
    train_source: Source,
    total_steps: int,
) -> tuple[Evaluation, ...]:
    """The run's own evaluation, and then those of `config.eval.extra`.

    The first is named "test", scores `config.data.eval_split` on the model's task, and is the one
    that decides which checkpoint is best. The others take what they do not say from it.

    Args:
      config: the run's config.
      model: what is evaluated.
      train_source: the training split.
      total_steps: updates of the run, for intervals in percent.

    Raises:
      InputError: anything about them that cannot work, in one line.
    """
    task = tasks.make_task(config, model)
    own = "reconstruction" if task.class_scores is None else "classification"
    main = {name: default for name, (_, default) in KINDS[own].items()} | {"name": "test"}
    evaluations, prepared = [], {}
    for kind, options in [(own, main), *parse(config.eval.extra)]:
        field = _Field("" if not evaluations else options["name"])
        if kind not in PROBES and kind != own:
            raise InputError(f"{field()}: {config.model.name} does {own}, not {kind}")
        durations = {unit: options.pop(f"every_{unit}") for unit in UNITS}
        if sum(value is not None for value in durations.values()) > 1:
            raise InputError(f"{field()}: give every_… in one unit")
        if any(value is not None and value < 0 for value in durations.values()):
            raise InputError(f"{field()}: every_… is negative")
        if all(value is None for value in durations.values()):
            durations = {unit: config.eval[f"every_{unit}"] for unit in UNITS}
        size = config.batch_size
        every = configs.in_steps(durations, size, len(train_source), total_steps) or 0
        options = _resolve(config, options)
        operations = preprocessing(options["preprocess"], config.image_size, field("preprocess"))
        source = open_split(config, options["dataset"], options["split"], field("split"))
        _check(config, model, kind, options, operations, source, train_source, field)
        _try(config, model, kind, options, operations, source, train_source, field)
        learnt = None
        if kind in PROBES:
            learnt = _learnt(config, kind, options, source, train_source, field)
            learnt = _images(config, learnt, operations, options, "train_split", prepared)
        evaluations.append(
            Evaluation(
                name=options.pop("name"),
                kind=kind,
                every=every,
                images=_images(config, source, operations, options, "split", prepared),
                views=operations.test,
                train_images=learnt,
                num_classes=source.num_classes,
                classes=source.classes,
                options=options,
                fingerprint=source.fingerprint,
            )
        )
    return tuple(evaluations)


class _Field(NamedTuple):
    """What to call an evaluation's options in messages; the run's own are fields of the config."""

    name: str

    def __call__(self, option: str = "") -> str:
        if self.name:
            return f"config.eval.extra: {self.name}" + (f": {option}" if option else "")
        known = {"split": "data.eval_split", "preprocess": "eval_preprocess"}
        return f"config.{known.get(option, f'eval.{option}')}"


def _resolve(config, options) -> dict[str, Any]:
    """The options with what they do not say taken from the config."""
    options = {**options, "dataset": options["dataset"] or config.data.name}
    home = options["dataset"] == config.data.name
    presets = PRESETS.get(options["dataset"].partition(":")[0], {})
    defaults = {
        "split": config.data.eval_split if home else presets.get("data.eval_split", "test"),
        "preprocess": config.eval_preprocess,
        "average": config.eval.average,
    }
    for name, value in defaults.items():
        if name in options and options[name] is None:
            options[name] = value
    return options


def _check(config, model, kind, options, operations, source, train_source, field) -> None:
    if source.channels != train_source.channels:
        raise InputError(
            f"{field('dataset')}: images of {source.name} have {source.channels} channels, those "
            f"of {train_source.name} {train_source.channels}"
        )
    if not field.name:
        check_classes(train_source, source)
    if kind not in PROBES and source.num_classes != train_source.num_classes:
        raise InputError(
            f"{field('dataset')}: {source.name} has {source.num_classes} classes, "
            f"{train_source.name} {train_source.num_classes}"
        )
    named = source.classes is not None and train_source.classes is not None
    if kind not in PROBES and named and source.classes != train_source.classes:
        raise InputError(f"{field('dataset')}: its classes are not those of {config.data.name}")
    if operations.test and (
        kind != "classification" or tasks.task_name(config) != "classification"
    ):
        raise InputError(f"{field('preprocess')}: only classifiers average views; leave them out")
    average = options.get("average", "logits")
    FIELDS["eval.average"].check(average)
    if operations.test and config.loss.name == "rbf" and average != "logits":
        raise InputError(f"{field('average')}: the scores of the loss rbf are averaged as logits")
    for name in ("temperature", "C"):
        if options.get(name) is not None and not 0 < options[name] < float("inf"):
            raise InputError(f"{field(name)}: {options[name]} is not positive")


def preprocessing(text: str, image_size: Any, field: str) -> augment.Augmentation:
    """The operations of a preprocessing string: those that draw nothing, and views.

    Without a host operation the image is first resized to `image_size`, unless the first view
    resizes.

    Raises:
      InputError: an operation that draws.
    """
    resizes = text.lstrip().startswith("multi_scale")
    parsed = augment.parse(text, field, None if resizes else image_size)
    if any(parsed._replace(stream=(), fixed=(), test=())) or parsed.stream != ONCE:
        raise InputError(
            f"{field}: only operations that draw nothing are allowed: "
            f"{', '.join([*augment.host.DETERMINISTIC, *augment.views.OPERATIONS])}"
        )
    return parsed


def _images(config, source, operations, options, split, prepared) -> pipeline.Images:
    """The examples, prepared once for all evaluations that share them."""
    drawn = split == "train_split" and options["train_examples"]
    key = (options["dataset"], options[split], options["preprocess"], drawn, len(source))
    if key not in prepared:
        cache = "auto" if config.data.cache == "device" else config.data.cache
        what = "test" if split == "split" else f"{options['name']}'s training"
        prepared[key] = pipeline.prepare(
            source, operations.fixed, cache, lambda loop: counted(loop, f"reading {what} images")
        )
    return prepared[key]


def _try(config, model, kind, options, operations, source, train_source, field) -> None:
    """Traces the evaluation on the shapes of its images, where they are not those of training."""
    image = augment.apply_host(operations.fixed, None, source.example(0)[0])
    images = apply_views(operations.test, image) if operations.test else image
    values, batch_size = sum(x.size for x in jax.tree.leaves(images)), config.eval.batch_size
    memory.check_images_memory(config, f"{field('preprocess')}: a batch", batch_size, values)
    sizes = sorted({x.shape[-3:-1] for x in jax.tree.leaves(images)})
    size = config.image_size
    stated = (size, size) if isinstance(size, int) else tuple(size)
    if kind not in PROBES and sizes == [stated]:
        return
    batch = blank_batch((*stated, train_source.channels))
    task = tasks.make_task(config, model)
    _, variables = jax.eval_shape(
        lambda: model.init_with_output(
            jax.random.key(0), *task.inputs(batch, {"mask": jax.random.key(0)}), train=False
        )
    )
    batch["image"] = jax.tree.map(lambda x: jax.ShapeDtypeStruct((1, *x.shape), x.dtype), images)
    try:
        if kind in PROBES:
            features = jax.eval_shape(make_features(config, model), variables, batch)
        else:
            function = make_eval_step(config, model, options["average"])
            jax.eval_shape(function, variables, batch)
    except (ValueError, TypeError, FlaxError) as error:
        made = " and ".join(f"{height}x{width}" for height, width in sizes)
        raise InputError(
            f"{field('preprocess')} makes images of {made}, config.image_size is "
            f"{stated[0]}x{stated[1]}, and {config.model.name} does not take others: "
            f"{str(error).splitlines()[0]}"
        ) from None
    if kind in PROBES and options["feature"] not in features:
        known = ", ".join(name for name in features)
        raise InputError(f"{field('feature')}: {options['feature']!r} is not one of {known}")


def _learnt(config, kind, options, source, train_source, field) -> Source:
    """What a probe learns from: the run's training examples or another split, or some of them,
    drawn by the run's seed."""
    if options["train_split"] is None and options["dataset"] == config.data.name:
        options["train_split"], learnt = config.data.train_split, train_source
    else:
        options["train_split"] = split = options["train_split"] or "train"
        learnt = open_split(config, options["dataset"], split, field("train_split"))
    if options["train_split"] == options["split"]:
        raise InputError(f"{field('train_split')}: it would learn from what it is scored on")
    if learnt.classes != source.classes:
        raise InputError(f"{field('train_split')}: it has other classes than {options['split']}")
    count = options["train_examples"]
    if count is not None:
        if not 1 <= count <= len(learnt):
            raise InputError(f"{field('train_examples')}: {count} is not in 1…{len(learnt)}")
        indices = np.random.default_rng(config.seed).choice(len(learnt), count, replace=False)
        part = Subset(learnt.records, np.sort(indices))
        learnt = dataclasses.replace(learnt, records=part)
    if kind == "knn" and not 1 <= options["k"] <= len(learnt):
        raise InputError(f"{field('k')}: {options['k']} is not in 1…{len(learnt)}")
    return learnt


def _terms(node: ast.AST) -> list[ast.AST]:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return [*_terms(node.left), *_terms(node.right)]
    return [node]


def _call(node: ast.AST) -> tuple[str, dict[str, Any]]:
    if isinstance(node, ast.Name):
        return node.id, {}
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name) or node.args:
        raise ValueError
    if any(word.arg is None for word in node.keywords):
        raise ValueError
    return node.func.id, {word.arg: ast.literal_eval(word.value) for word in node.keywords}


def _nearest(word: str, known: Any) -> str:
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else f"; allowed: {', '.join(known)}"
