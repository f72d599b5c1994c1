"""Pictures of representations: CKA between layers, neighbours, projections to the plane."""

import itertools

import numpy as np

from cv_jax.inspect import network, similarity
from cv_jax.inspect.look import figures
from cv_jax.inspect.look.subject import DoesNotApply, Finding, Subject

FEATURE = "pre_logits"
MOST_EXAMPLES = 2000  # of a projection or a search for neighbours
BATCHES = 16  # minibatches of CKA


def look_at_cka(subject: Subject) -> list[Finding]:
    """Linear CKA between all layers, and with a second network between its layers."""
    if subject.others:
        raise DoesNotApply("it needs more than an image")
    batches = _images(subject)
    found = similarity.cka(subject.model, subject.variables, batches, subject.companion)
    size = max(6.2, 0.35 * len(found.columns) + 2)
    figure, axes = figures.panels(
        1, 1, "Linear CKA between layers, unbiased over minibatches", width=size + 1, height=size
    )
    axis = axes[0, 0]
    drawn = figures.show_map(axis, found.cka, limits=(0, 1))
    across, down = (list(map(figures.text, names)) for names in (found.columns, found.rows))
    axis.set_xticks(range(len(across)), across, rotation=90, fontsize=9)
    axis.set_yticks(range(len(down)), down, fontsize=9)
    if subject.companion is not None:
        axis.set(xlabel="layers of the second network", ylabel="layers of the first network")
    figure.colorbar(drawn, ax=axis, shrink=0.8, label="CKA")
    rows = [
        {"layer": a, "other": b, "cka": float(found.cka[i, j])}
        for i, a in enumerate(found.rows)
        for j, b in enumerate(found.columns)
    ]
    ends = found.cka[0, -1]
    text = f"CKA of {found.rows[0]} and {found.columns[-1]}: {ends:.2f}"
    return [Finding("cka", text, figure, rows)]


def _images(subject: Subject):
    """Yield minibatches of images, all of one size."""
    if subject.split is None:
        if len(subject.images) < similarity.LEAST:
            raise DoesNotApply(f"it needs at least {similarity.LEAST} images")
        yield subject.images
        return
    size = None
    for batch in itertools.islice(subject.split(), BATCHES):
        size = size or len(batch["inputs"][0])
        if len(batch["inputs"][0]) >= similarity.LEAST:
            yield batch["inputs"][0]


def look_at_neighbours(subject: Subject) -> list[Finding]:
    """Nearest neighbours of each image in the split, by the cosine of the last feature."""
    features, labels, pixels = _last_features(subject, keep_pixels=True)
    _, found = network.features(subject.model, subject.variables, subject.images, *subject.others)
    queries = np.asarray(found[FEATURE]).reshape(len(subject.images), -1)
    # The first neighbour of an image of the split is the image itself.
    index, cosines = similarity.nearest_neighbours(queries, features, 7)
    figure, axes = figures.panels(
        len(queries),
        7,
        "Each image (left) and its nearest neighbours, by the cosine of the features",
    )
    rows = []
    for i, row in enumerate(axes):
        near = [k for k in range(cosines.shape[1]) if cosines[i, k] < 1 - 1e-5][:6]
        figures.show(row[0], subject.pixels[i], _title(subject, i))
        for axis in row[1:]:
            axis.set_axis_off()
        for axis, k in zip(row[1:], near, strict=False):
            axis.set_axis_on()
            name = subject.class_name(int(labels[index[i, k]]))
            figures.show(axis, pixels[index[i, k]], f"{name}\n{cosines[i, k]:.3f}")
            rows.append(
                {
                    "image": subject.names[i],
                    "neighbour": int(index[i, k]),
                    "class": name,
                    "cosine": float(cosines[i, k]),
                }
            )
    text = f"neighbours among {len(features)} images"
    if subject.labels is not None:
        own = {
            n: subject.class_name(int(x))
            for n, x in zip(subject.names, subject.labels, strict=True)
        }
        same = np.mean([row["class"] == own[row["image"]] for row in rows])
        text = f"{same:.1%} of the neighbours have the class of the image, {text}"
    return [Finding("neighbours", text, figure, rows)]


def _title(subject: Subject, i: int) -> str:
    if subject.labels is None:
        return subject.names[i]
    return f"{subject.names[i]}\n{subject.class_name(int(subject.labels[i]))}"


def look_at_projection(subject: Subject) -> list[Finding]:
    """The last features of the split in the plane, coloured by class: PCA and t-SNE or UMAP."""
    features, labels, _ = _last_features(subject)
    if len(features) < similarity.FEWEST_POINTS:
        raise DoesNotApply(f"it needs at least {similarity.FEWEST_POINTS} images")
    methods = subject.options.get("projections", ("pca", "tsne"))
    figure, axes = figures.panels(
        1, len(methods), f"{FEATURE} of {len(features)} images in the plane", width=6, height=5.5
    )
    present = np.unique(labels)
    shown = present[: len(figures.COLOURS) * 2]
    rows = [{"example": i, "class": subject.class_name(int(k))} for i, k in enumerate(labels)]
    purity = {}
    for axis, method in zip(axes[0], methods, strict=True):
        try:
            points = similarity.project(features, method)
        except ImportError:
            raise DoesNotApply(f"{method} needs a package: pip install 'cv_jax[umap]'") from None
        for k, label in enumerate(shown):
            here = labels == label
            axis.plot(
                *points[here].T,
                figures.MARKERS[k % len(figures.MARKERS)],
                color=figures.COLOURS[k % len(figures.COLOURS)],
                fillstyle="full" if k < len(figures.COLOURS) else "none",
                markersize=4,
                alpha=0.7,
                label=figures.text(subject.class_name(int(label))),
            )
        axis.set(xticks=[], yticks=[], title=method)
        purity[method] = _purity(points, labels)
        for row, (x, y) in zip(rows, points, strict=True):
            row |= {f"{method}_x": float(x), f"{method}_y": float(y)}
    figures.legend_below(figure, axes[0, 0], 10)
    parts = ", ".join(f"{value:.1%} in {method}" for method, value in purity.items())
    text = f"share of nearest points of the same class: {parts}"
    return [Finding("projection", text, figure, rows)]


def _purity(points: np.ndarray, labels: np.ndarray) -> float:
    """Return the share of points whose nearest other point has the same class."""
    from scipy.spatial import KDTree

    _, index = KDTree(points).query(points, k=2)
    return float((labels[index[:, 1]] == labels).mean())


def _last_features(subject: Subject, keep_pixels: bool = False):
    """Return features [N, D], labels [N] and pixels of up to `MOST_EXAMPLES` of the split."""
    if subject.split is None:
        raise DoesNotApply("it needs a split of labelled images: --split")
    features, labels, pixels, count = [], [], [], 0
    for batch in subject.split():
        if batch["label"].ndim > 1:
            raise DoesNotApply("it needs one class for each image, not a sequence")
        _, found = network.features(subject.model, subject.variables, *batch["inputs"])
        if FEATURE not in found:
            raise DoesNotApply(f"it has no feature {FEATURE}")
        features.append(np.asarray(found[FEATURE]).reshape(len(batch["label"]), -1))
        labels.append(batch["label"])
        pixels.append(batch["pixels"] if keep_pixels else batch["pixels"][:0])
        count += len(batch["label"])
        if count >= MOST_EXAMPLES:
            break
    return tuple(np.concatenate(x)[:MOST_EXAMPLES] for x in (features, labels, pixels))
