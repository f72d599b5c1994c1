"""Pictures through the depth of a network and the time of its training."""

import numpy as np
from matplotlib.patches import Rectangle

from cv_jax.inspect import effective_field, network, receptive_field
from cv_jax.inspect import layers as signals
from cv_jax.inspect.look import figures
from cv_jax.inspect.look.subject import DoesNotApply, Finding, Subject

MOST_FIELDS, MOST_CHECKPOINTS = 8, 5


def look_at_receptive_field(subject: Subject) -> list[Finding]:
    """Effective receptive fields, trained and initial, beside the theoretical ones."""
    size = subject.images.shape[1:3]
    nets = _over_time(subject)
    fields = {}
    for when, variables in nets.items():
        fields[when] = effective_field.effective_fields(
            subject.model, variables, subject.images, *subject.others
        )
    last = fields[list(fields)[-1]]
    if not last:
        raise DoesNotApply("it has no feature with places in the image")
    inputs = tuple(x[:1] for x in (subject.images, *subject.others))
    model, _ = network.readable(subject.model, subject.variables)
    theory = {x.name: x for x in receptive_field.layers(model, inputs, size)}
    rows = []
    for when, found in fields.items():
        for field in found:
            known = theory.get(field.name)
            rows.append(
                {
                    "when": when,
                    "layer": field.name,
                    "effective_rows": field.size[0],
                    "effective_columns": field.size[1],
                    "theoretical_rows": (known.size or size)[0] if known else None,
                    "theoretical_columns": (known.size or size)[1] if known else None,
                }
            )
    text = _field_text(fields, size)
    return [
        Finding("effective_field", text, _field_figure(subject, last, theory, size), rows),
        Finding("effective_field_growth", text, _growth_figure(fields, theory, size), rows),
    ]


def _over_time(subject: Subject) -> dict:
    """Return the variables at initialisation, at some checkpoints, and as trained, by name."""
    nets = {}
    if subject.initial is not None:
        nets["initial"] = subject.initial()
    if subject.checkpoints is not None:
        saved = list(subject.checkpoints())
        for i in figures.chosen(len(saved), MOST_CHECKPOINTS)[:-1] if len(saved) > 1 else []:
            nets[f"step {saved[i][0]}"] = saved[i][1]
    return {**nets, "trained": subject.variables}


def _field_text(fields: dict, size) -> str:
    parts = [f"{when}: {found[-1].size[0]:.0f} pixels" for when, found in fields.items() if found]
    name = fields[list(fields)[-1]][-1].name
    return f"side of the effective field of {name}, {', '.join(parts)} (image: {size[0]})"


def _field_figure(subject, found, theory, size):
    shown = [found[i] for i in figures.chosen(len(found), MOST_FIELDS)]
    columns = min(len(shown), 4)
    figure, axes = figures.panels(
        -(-len(shown) // columns),
        columns,
        f"Effective receptive field of the central unit, trained, mean of {len(subject.images)} "
        "images; orange: side of the effective field, white: theoretical field",
    )
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, field in zip(axes.flat, shown, strict=False):
        axis.set_axis_on()
        values = np.sqrt(field.field / (field.field.max() or 1))
        figures.show_map(axis, values, limits=(0, 1))
        known = theory.get(field.name)
        reach = (known.size or size) if known else size
        _square(axis, _middle(field.field), reach, size, "white")
        _square(axis, field.centre, field.size, size, figures.COLOURS[4])
        text = f"{field.name}\n{field.size[0]:.0f} of {reach[0]} pixels"
        figures.plain(axis, text)
    return figure


def _middle(field: np.ndarray) -> tuple[float, float]:
    """Return the middle of the pixels that a unit depends on, (row, column)."""
    used = [np.flatnonzero(field.any(axis=axis)) for axis in (1, 0)]
    return tuple((x[0] + x[-1]) / 2 if len(x) else np.nan for x in used)


def _square(axis, centre, side, size, colour) -> None:
    if not np.isfinite(centre).all():
        return
    top, left = (max(c - s / 2, -0.5) for c, s in zip(centre, side, strict=True))
    bottom, right = (
        min(c + s / 2, length - 0.5) for c, s, length in zip(centre, side, size, strict=True)
    )
    corner = Rectangle((left, top), right - left, bottom - top, fill=False, lw=2, edgecolor=colour)
    axis.add_patch(corner)


def _growth_figure(fields, theory, size):
    names = [field.name for field in next(iter(fields.values()))]
    figure, axes = figures.panels(
        1, 1, "Side of the receptive field through the depth", width=8, height=4.5
    )
    axis, places = axes[0, 0], np.arange(1, len(names) + 1)
    curves = {when: [field.size[0] for field in found] for when, found in fields.items()}
    reach = [(theory[n].size or size)[0] if n in theory else np.nan for n in names]
    figures.lines(axis, places, {"theoretical": reach, **curves})
    _name_layers(axis, places, names)
    axis.set(ylabel="rows, pixels", ylim=(0, None))
    return figure


def _name_layers(axis, places: np.ndarray, names: list[str]) -> None:
    shown = figures.chosen(len(names), 10)
    labels = [figures.text(names[i]) for i in shown]
    axis.set_xticks(places[shown], labels, rotation=45, ha="right", fontsize=9)


def look_at_layers(subject: Subject) -> list[Finding]:
    """Gradient norms, activations, dead units and rank of every layer, over training."""
    if subject.others:
        raise DoesNotApply("its loss needs more than an image and a class")
    labels = subject.labels if getattr(subject.model, "num_classes", 0) else None
    found = {
        when: signals.statistics(subject.model, variables, subject.images, labels)
        for when, variables in _over_time(subject).items()
    }
    rows = [{"when": when, **layer._asdict()} for when, layers in found.items() for layer in layers]
    names = [layer.name for layer in found["trained"]]
    panels = [
        ("gradient_norm", "norm of the loss gradient", "log"),
        ("std", "standard deviation of activations", "log"),
        ("dead", "share of dead channels", "linear"),
        ("rank", "effective rank of the channels", "log"),
    ]
    if labels is None:
        panels = panels[1:]
    figure, axes = figures.panels(
        1,
        len(panels),
        f"Signals through the depth, {len(subject.images)} images",
        width=4.5,
        height=4,
    )
    places = np.arange(1, len(names) + 1)
    for axis, (key, label, scale) in zip(axes[0], panels, strict=True):
        curves = {when: [getattr(x, key) for x in layers] for when, layers in found.items()}
        figures.lines(axis, places, curves)
        positive = all(v > 0 for values in curves.values() for v in values)
        axis.set(ylabel=label, yscale=scale if positive else "linear")
        if key == "dead":
            axis.set_ylim(-0.02, 1.02)
        _name_layers(axis, places, names)
    trained = found["trained"]
    ratio = trained[0].gradient_norm / max(trained[-1].gradient_norm, 1e-30)
    text = f"{np.mean([x.dead for x in trained]):.1%} of the channels are dead"
    if labels is not None:
        text = f"gradient norm of the first feature over the last: {ratio:.2g}; {text}"
    return [Finding("layers", text, figure, rows)]
