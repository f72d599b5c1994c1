"""Saliency maps of a class, compared by numbers."""

import functools

import jax.numpy as jnp
import numpy as np

from cv_jax.inspect import fidelity, network, saliency
from cv_jax.inspect.look import figures
from cv_jax.inspect.look.subject import DoesNotApply, Finding, Subject

CONTROL = "random"


def look_at_saliency(subject: Subject) -> list[Finding]:
    """Maps of every method for the predicted class, or for the option `class`."""
    classes = _classes(subject)
    try:
        maps = _maps(subject, classes)
    except saliency.NoPlaces as error:
        raise DoesNotApply(str(error)) from None
    figure, axes = figures.panels(
        len(subject.images), 1 + len(maps), "Saliency of the named class; bright: evidence for it"
    )
    for i, row in enumerate(axes):
        title = f"{subject.names[i]}\n{subject.class_name(int(classes[i]))}"
        figures.show(row[0], subject.pixels[i], title)
        for axis, (name, found) in zip(row[1:], maps.items(), strict=True):
            figures.overlay(axis, subject.pixels[i], found[i], name.replace("_", " "))
    rows = [
        {
            "image": subject.names[i],
            "class": subject.class_name(int(classes[i])),
            "method": name,
            "peak_row": int(np.unravel_index(found[i].argmax(), found[i].shape)[0]),
            "peak_column": int(np.unravel_index(found[i].argmax(), found[i].shape)[1]),
        }
        for i in range(len(subject.images))
        for name, found in maps.items()
    ]
    text = f"{len(maps)} methods on {len(subject.images)} images"
    return [Finding("saliency", text, figure, rows), *_fidelity(subject, classes, maps)]


def _classes(subject: Subject) -> np.ndarray:
    """Return the class to explain of each image."""
    count = subject.require_classes()
    if subject.others:
        raise DoesNotApply("it is not a classifier of images")
    chosen = subject.options.get("class")
    if chosen is None:
        logits, _ = network.features(subject.model, subject.variables, subject.images)
        return np.asarray(logits.argmax(axis=1))
    names = [*subject.class_names, *map(str, range(count))]
    if chosen not in names:
        raise DoesNotApply(f"it has no class {chosen!r}")
    index = subject.class_names.index(chosen) if chosen in subject.class_names else int(chosen)
    return np.full(len(subject.images), index)


def _maps(subject: Subject, classes: np.ndarray) -> dict[str, np.ndarray]:
    """Return the map of every method that applies."""
    found = {}
    for name in saliency.METHODS:
        try:
            found[name] = _method(subject, name)(
                subject.model, subject.variables, subject.images, jnp.asarray(classes)
            )
        except saliency.NoPlaces:
            if name == "grad_cam" and subject.options.get("feature"):
                raise
    return found


def _method(subject: Subject, name: str):
    """Return a method with its options, such as the feature of Grad-CAM."""
    options = dict(subject.options.get(name, {}))
    if name == "grad_cam" and subject.options.get("feature"):
        options["feature"] = subject.options["feature"]
    return functools.partial(saliency.METHODS[name], **options)


def _fidelity(subject: Subject, classes: np.ndarray, maps: dict) -> list[Finding]:
    """Draw deletion and insertion curves, and compute their areas and the randomisation test."""
    figure, axes = figures.panels(
        1,
        2,
        f"Probability of the class, mean of {len(subject.images)} images",
        width=5.5,
        height=4.5,
    )
    net = subject.model, subject.variables, subject.images, jnp.asarray(classes)
    kinds = {"deletion": fidelity.deletion, "insertion": fidelity.insertion}
    rows = {name: {"method": name} for name in maps}
    for axis, (kind, compute) in zip(axes[0], kinds.items(), strict=True):
        curves = {name: compute(*net, found) for name, found in maps.items()}
        for name, curve in curves.items():
            rows[name][f"{kind}_area"] = float(fidelity.area(curve).mean())
        places = np.linspace(0, 100, curves[CONTROL].shape[1])
        means = {n.replace("_", " "): c.mean(axis=0) for n, c in curves.items()}
        figures.lines(axis, places, means, legend=False)
        done = "removed" if kind == "deletion" else "inserted"
        axis.set(xlabel=f"pixels {done}, %", ylabel="probability", ylim=(0, 1), title=kind)
    figures.legend_below(figure, axes[0, 0], 5)
    for name, row in rows.items():
        correlation = fidelity.randomisation(_method(subject, name), *net)
        finite = correlation[np.isfinite(correlation)]
        row["correlation_with_random_weights"] = float(finite.mean()) if len(finite) else None
    tested = [name for name in maps if name != CONTROL]
    best = min(tested, key=lambda name: rows[name]["deletion_area"])
    text = (
        f"deletion: {best} is best with an area of {rows[best]['deletion_area']:.3f}, "
        f"a random map has {rows[CONTROL]['deletion_area']:.3f}"
    )
    return [Finding("fidelity", text, figure, list(rows.values()))]
