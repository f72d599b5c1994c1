"""Pictures of weights: first-layer filters, patch components, positions, bias tables."""

import numpy as np

from cv_jax.inspect import filters, network, places
from cv_jax.inspect.look import figures
from cv_jax.inspect.look.subject import DoesNotApply, Finding, Subject

MOST_FILTERS = 256  # drawn in one picture
WHOLE_IMAGE = "its first layer reads the whole image: see the templates of a linear classifier"


def look_at_filters(subject: Subject) -> list[Finding]:
    """First-layer filters with their spectra; towers are told apart."""
    findings = []
    for i, layer in enumerate(_layers(subject)):
        frequency, norms = filters.mean_frequency(layer.kernel), _norms(layer.kernel)
        tower = np.arange(len(layer.kernel)) * layer.groups // len(layer.kernel)
        rows = [
            {
                "layer": layer.name,
                "filter": k,
                "tower": int(tower[k]) + 1,
                "norm": float(norms[k]),
                "mean_frequency": float(frequency[k]),
                "colour": float(_colour(layer.kernel[k])),
            }
            for k in range(len(layer.kernel))
        ]
        findings.append(
            Finding(
                "filters" if not i else f"filters_{i + 1}",
                f"{layer.name}: {len(layer.kernel)} filters of "
                f"{layer.kernel.shape[1]}x{layer.kernel.shape[2]} pixels; mean frequency "
                f"{np.average(frequency, weights=norms**2):.3f} cycles per pixel"
                + _tower_text(rows, layer.groups),
                _filter_figure(layer, tower),
                rows,
            )
        )
    return findings


def look_at_embedding(subject: Subject) -> list[Finding]:
    """Principal components of the patch embedding: figure 7 (left) of the ViT paper."""
    layer = _layers(subject)[0]
    if layer.kernel.shape[0] < 8 or layer.name.split("/")[-2] != "patch_embed":
        raise DoesNotApply("it has no patch embedding")
    components, share = filters.principal_components(layer.kernel)
    columns = 7
    figure, axes = figures.panels(
        -(-len(components) // columns),
        columns,
        f"Principal components of {layer.name}, with their share of the variance",
    )
    for axis, component, part in zip(axes.flat, components, share, strict=False):
        figures.show_filter(axis, component, f"{part:.1%}")
    for axis in axes.flat[len(components) :]:
        axis.set_axis_off()
    rows = [{"component": i + 1, "variance": float(part)} for i, part in enumerate(share)]
    text = f"the first {len(share)} components have {share.sum():.1%} of the variance"
    return [Finding("embedding", text, figure, rows)]


def look_at_positions(subject: Subject) -> list[Finding]:
    """Cosines of position embeddings (figure 7, centre), and Swin's relative position biases."""
    findings = []
    size = subject.images.shape[1:3]
    for name, table in filters.positions(subject.variables).items():
        model, _ = network.readable(subject.model, subject.variables)
        inputs = tuple(x[:1] for x in (subject.images, *subject.others))
        grid = places.token_grid(model, inputs, size)
        if grid is not None and grid.complete():
            findings.append(_position_finding(name, table, grid))
    tables = filters.bias_tables(subject.model, subject.variables, size)
    if tables:
        findings.append(_bias_finding(tables))
    if not findings:
        raise DoesNotApply("it has neither learned position embeddings nor bias tables")
    return findings


def _layers(subject: Subject) -> list[filters.Filters]:
    net = network.readable(subject.model, subject.variables)  # traced once for all analyses
    found = filters.first_layers(*net, subject.images, *subject.others)
    size = subject.images.shape[1:3]
    found = [layer for layer in found if layer.kernel.shape[1:3] != size or len(size) == 0]
    if not found:
        raise DoesNotApply(WHOLE_IMAGE)
    return found


def _norms(kernel: np.ndarray) -> np.ndarray:
    return np.linalg.norm(kernel.reshape(len(kernel), -1), axis=1)


def _colour(kernel: np.ndarray) -> float:
    """Return the share of a filter's energy that differs between the channels, 0…1."""
    energy = (kernel**2).sum()
    grey = (kernel.mean(axis=-1, keepdims=True) ** 2).sum() * kernel.shape[-1]
    return 1 - grey / energy if energy > 0 else 0.0


def _tower_text(rows: list[dict], groups: int) -> str:
    if groups == 1:
        return ""
    shares = [
        np.average(
            [row["colour"] for row in rows if row["tower"] == tower + 1],
            weights=[row["norm"] ** 2 for row in rows if row["tower"] == tower + 1],
        )
        for tower in range(groups)
    ]
    return "; colour " + ", ".join(
        f"{share:.1%} in tower {i + 1}" for i, share in enumerate(shares)
    )


def _filter_figure(layer: filters.Filters, tower: np.ndarray):
    count = min(len(layer.kernel), MOST_FILTERS)
    title = f"{layer.name}: filters (left) and their amplitude spectra (right)"
    if count < len(layer.kernel):
        title += f", the first {count} of {len(layer.kernel)}"
    side = 6.2
    figure, axes = figures.panels(layer.groups, 2, title, width=side, height=side)
    for i in range(layer.groups):
        kernels = layer.kernel[:count][tower[:count] == i]
        columns = int(np.ceil(np.sqrt(len(kernels))))
        scaled = kernels / np.maximum(np.abs(kernels).max(axis=(1, 2, 3), keepdims=True), 1e-30)
        name = f"tower {i + 1}: " if layer.groups > 1 else ""
        if kernels.shape[-1] == 3:
            axes[i, 0].imshow(figures.tile(0.5 + scaled / 2, columns, 1.0), interpolation="nearest")
        else:
            sheet = figures.tile(scaled.mean(axis=-1), columns, np.nan)
            figures.show_map(axes[i, 0], sheet, signed=True)
        figures.plain(axes[i, 0], f"{name}each filter scaled to its largest weight")
        spectra = filters.spectra(kernels)
        spectra = spectra / np.maximum(spectra.max(axis=(1, 2), keepdims=True), 1e-30)
        figures.show_map(axes[i, 1], figures.tile(spectra, columns, np.nan))
        figures.plain(axes[i, 1], f"{name}frequency 0 in the middle, 0.5 per pixel at the edges")
    return figure


def _position_finding(name, table, grid) -> Finding:
    cosines = filters.position_similarity(table, grid)
    rows_, columns_ = (figures.chosen(n, 7) for n in cosines.shape[:2])
    figure, axes = figures.panels(
        len(rows_), len(columns_), f"{name}: cosine of one position with all positions"
    )
    for row, i in zip(axes, rows_, strict=True):
        for axis, j in zip(row, columns_, strict=True):
            drawn = figures.show_map(
                axis, cosines[i, j], f"row {i + 1}, column {j + 1}", limits=(-1, 1)
            )
    figure.colorbar(drawn, ax=axes, shrink=0.6, label="cosine")
    near, far = _by_distance(cosines)
    numbers = [
        {"distance_in_patches": int(d), "mean_cosine": float(c)}
        for d, c in zip(near, far, strict=True)
    ]
    text = f"{name}: mean cosine {far[1]:+.2f} of neighbours, {far[-1]:+.2f} of the farthest"
    return Finding("positions", text, figure, numbers)


def _by_distance(cosines: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return rounded distances in patches, and the mean cosine at each."""
    index = np.stack(np.indices(cosines.shape[:2]), axis=-1).reshape(-1, 2)
    apart = np.linalg.norm(index[:, None] - index[None, :], axis=-1).round().astype(int)
    values = cosines.reshape(len(index), -1)
    distances = np.unique(apart)
    return distances, np.array([values[apart == d].mean() for d in distances])


def _bias_finding(tables: dict[str, np.ndarray]) -> Finding:
    names = [list(tables)[i] for i in figures.chosen(len(tables), 6)]
    heads = max(len(figures.chosen(len(tables[name]), 6)) for name in names)
    figure, axes = figures.panels(
        len(names), heads, "Relative position bias over the offset from key to query, in tokens"
    )
    for row, name in zip(axes, names, strict=True):
        table = tables[name]
        for axis in row:
            axis.set_axis_off()
        for axis, head in zip(row, figures.chosen(len(table), 6), strict=False):
            axis.set_axis_on()
            block = (
                name.split("/attn")[0].replace("layers_", "stage ").replace("/blocks_", ", block ")
            )
            drawn = figures.show_map(axis, table[head], f"{block}, head {head + 1}", signed=True)
            figure.colorbar(drawn, ax=axis, shrink=0.7)
    rows = [
        {
            "table": name,
            "head": head + 1,
            "centre": float(bias[bias.shape[0] // 2, bias.shape[1] // 2]),
            "mean": float(bias.mean()),
            "std": float(bias.std()),
        }
        for name, table in tables.items()
        for head, bias in enumerate(table)
    ]
    above = np.mean([row["centre"] > row["mean"] for row in rows])
    text = f"{above:.0%} of {len(rows)} heads prefer the token itself to the average offset"
    return Finding("bias_tables", text, figure, rows)
