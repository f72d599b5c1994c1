"""The evaluations of a run: its own evaluation and those of `config.eval.extra`.

    knn(k=20, every_epochs=5)|classification(name="shifted", preprocess="resize(36)|ten_crop(32)")

Each evaluation has a name, which is the `split` of its metric lines, its own data and its own
interval. `kinds.py` lists the kinds; the file of a kind lists its options. The string is parsed as
literals and never executed. Every mistake is reported before the first step.
"""

import math
from typing import Any

import flax.linen as nn
import jax
import ml_collections

from cv_jax import augment, tasks
from cv_jax import config as configs
from cv_jax.augment.stream import ONCE
from cv_jax.augment.views import apply_views
from cv_jax.config.fields import UNITS
from cv_jax.config.presets import PRESETS
from cv_jax.config.terms import Term, parse_terms
from cv_jax.config.values import check
from cv_jax.data import pipeline
from cv_jax.data.source import Source, check_classes, require_images
from cv_jax.data.splits import noted, open_split
from cv_jax.devices import memory
from cv_jax.errors import InputError, did_you_mean
from cv_jax.evaluation.kind import Evaluation, FieldName, Request
from cv_jax.evaluation.kinds import KINDS, options_of, own_kind
from cv_jax.progress import counted

_RESERVED = ("train", "test", "norms")  # values of `split` in metric lines


def parse(text: str, field: str = "config.eval.extra") -> list[tuple[str, dict[str, Any]]]:
    """Return kind and options, with defaults, of each evaluation in `kind(option=…)|…`.

    Raises:
      InputError: an unknown kind or option, a value of the wrong type, or a repeated name.
    """
    parsed, names = [], list(_RESERVED)
    for term in parse_terms(text, field):
        options = _parse_options(term, field)
        name = options["name"]
        if not name.replace("_", "a").replace("-", "a").isalnum():
            raise InputError(f"{field}: name {name!r} may contain letters, digits, - and _ only")
        if name in names:
            raise InputError(f"{field}: the name {name!r} is taken; set another with name=…")
        names.append(name)
        parsed.append((term.name, options))
    return parsed


def plan(
    config: ml_collections.ConfigDict,
    model: nn.Module,
    train_source: Source,
    total_steps: int,
) -> tuple[Evaluation, ...]:
    """Return the run's own evaluation, followed by those of `config.eval.extra`.

    The run's own evaluation is named "test" and scores `config.data.eval_split`; its metrics decide
    which checkpoint is best. The defaults of the others are its options.

    Args:
      config: config of the run.
      model: the evaluated model.
      train_source: the training split.
      total_steps: number of updates of the run, for intervals in percent.

    Raises:
      InputError: an evaluation, or `config.eval.pictures`, does not suit the model or the data.
    """
    task = tasks.make_task(config, model)
    own = own_kind(task)
    if config.eval.pictures and own != "reconstruction":
        raise InputError(
            f"config.eval.pictures={config.eval.pictures}: {config.model.name} is not a masked "
            "autoencoder; only 0 is allowed"
        )
    own_options = {name: option.default for name, option in options_of(own).items()}
    evaluations, prepared = [], {}
    for kind, options in [(own, {**own_options, "name": "test"}), *parse(config.eval.extra)]:
        field = FieldName(options["name"] if evaluations else "")
        if not KINDS[kind].suits(task):
            allowed = ", ".join(other for other in KINDS if KINDS[other].suits(task))
            raise InputError(
                f"{field()}: the kind {kind} does not suit {config.model.name}; allowed: {allowed}"
            )
        name, every = options.pop("name"), _interval(config, options, field)
        steps = configs.in_steps(every, config.batch_size, len(train_source), total_steps)
        request = _request(config, model, train_source, options, field)
        options, probe_source = KINDS[kind].check(request)
        train_images = None
        if probe_source is not None:
            train_images = _images(request, probe_source, options, "train_split", name, prepared)
        evaluations.append(
            Evaluation(
                name=name,
                kind=kind,
                every=steps or 0,
                images=_images(request, request.source, options, "split", name, prepared),
                views=request.operations.test,
                train_images=train_images,
                num_classes=request.source.num_classes,
                classes=request.source.classes,
                options=options,
                fingerprint=request.source.fingerprint,
            )
        )
    return tuple(evaluations)


def preprocessing(text: str, image_size: int | tuple[int, int], field: str) -> augment.Augmentation:
    """Parse test preprocessing: deterministic host operations and views.

    Without a host operation the image is first resized to `image_size`, unless the first view
    resizes.

    Raises:
      InputError: an operation is random.
    """
    resizes = text.lstrip().startswith("multi_scale")
    parsed = augment.parse(text, field, None if resizes else image_size)
    if any(parsed._replace(stream=(), fixed=(), test=())) or parsed.stream != ONCE:
        raise InputError(
            f"{field}: only deterministic operations are allowed: "
            f"{', '.join([*augment.host.DETERMINISTIC, *augment.views.OPERATIONS])}"
        )
    return parsed


def _parse_options(term: Term, field: str) -> dict[str, Any]:
    """All options of one evaluation, with defaults."""
    kind = term.name
    if kind not in KINDS:
        hint = did_you_mean(kind, KINDS) or f"; allowed: {', '.join(KINDS)}"
        raise InputError(f"{field}: unknown kind {kind!r}{hint}")
    known = options_of(kind)
    if term.args:
        raise InputError(f"{field}: {term.text}: options are given by name, as in {kind}(name='a')")
    options = {name: option.default for name, option in known.items()}
    for name, value in term.kwargs.items():
        if name not in known:
            hint = did_you_mean(name, known) or f"; allowed: {', '.join(known)}"
            raise InputError(f"{field}: {kind} has no option {name!r}{hint}")
        options[name] = check(value, known[name].type, f"{field}: {kind}: {name}")
    return {**options, "name": options["name"] or kind}


def _interval(config, options, field) -> dict[str, float | None]:
    """Remove the options `every_…` and return them by unit; by default `config.eval.every_…`."""
    interval = {unit: options.pop(f"every_{unit}") for unit in UNITS}
    values = [value for value in interval.values() if value is not None]
    if len(values) > 1:
        raise InputError(f"{field()}: set every_… in one unit only")
    for unit, value in interval.items():
        if value is not None and not 0 <= value < math.inf:
            raise InputError(f"{field()}: every_{unit}={value} must be finite and at least 0")
    return interval if values else {unit: config.eval[f"every_{unit}"] for unit in UNITS}


def _request(config, model, train_source, options, field) -> Request:
    """Resolve the common options, open the split and check that it fits the training split."""
    options = _resolve(config, options)
    operations = preprocessing(options["preprocess"], config.image_size, field("preprocess"))
    source = open_split(config, options["dataset"], options["split"], field("split"))
    if source.kind != train_source.kind:
        raise InputError(
            f"{field('dataset')}: the examples of {source.name} are {source.kind}s, those of "
            f"{train_source.name} are {train_source.kind}s"
        )
    if source.kind == "sequence":
        if options["preprocess"]:
            require_images(source, f"{field('preprocess')}={options['preprocess']}")
        operations = augment.parse("")
    if source.channels != train_source.channels:
        raise InputError(
            f"{field('dataset')}: images of {source.name} have {source.channels} channels, those "
            f"of {train_source.name} have {train_source.channels}"
        )
    if not field.name:
        check_classes(train_source, source)
        source = noted(config, source, options["split"], {})
    image = augment.apply_host(operations.fixed, None, source.example(0)[0])
    views = apply_views(operations.test, image) if operations.test else image
    values, batch_size = sum(x.size for x in jax.tree.leaves(views)), config.eval.batch_size
    memory.check_images_memory(config, f"{field('preprocess')}: a batch", batch_size, values)
    images = jax.tree.map(lambda x: jax.ShapeDtypeStruct((1, *x.shape), x.dtype), views)
    return Request(config, model, options, field, operations, source, train_source, images)


def _resolve(config, options) -> dict[str, Any]:
    """Replace options that are `None` by values from the config or from the dataset's presets."""
    options = {**options, "dataset": options["dataset"] or config.data.name}
    presets = PRESETS.get(options["dataset"].partition(":")[0], {})
    if options["split"] is None:
        own = options["dataset"] == config.data.name
        split = config.data.eval_split if own else presets.get("data.eval_split", "test")
        options["split"] = split
    if options["preprocess"] is None:
        options["preprocess"] = config.eval_preprocess
    return options


def _images(request, source, options, split, name, prepared) -> pipeline.Images:
    """The preprocessed examples; evaluations with the same data share them through `prepared`."""
    config, drawn = request.config, split == "train_split" and options["train_examples"]
    key = (options["dataset"], options[split], options["preprocess"], drawn, len(source))
    if key not in prepared:
        cache = "auto" if config.data.cache == "device" else config.data.cache
        title = "test" if split == "split" else f"{name}'s training"
        prepared[key] = pipeline.prepare(
            source,
            request.operations.fixed,
            cache,
            lambda loop: counted(loop, f"reading {title} {source.kind}s"),
        )
    return prepared[key]
