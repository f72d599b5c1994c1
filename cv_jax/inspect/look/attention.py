"""Pictures of attention: maps by layer and head, distance, entropy, rollout."""

import numpy as np

from cv_jax.inspect import attention, rollout
from cv_jax.inspect.look import figures
from cv_jax.inspect.look.subject import DoesNotApply, Finding, Subject
from cv_jax.models.decoder import EOS, PAD

NO_ATTENTION = "it has no attention over tokens of the image"
MOST_LAYERS, MOST_HEADS = 4, 6  # in one picture of maps


def look_at_attention(subject: Subject) -> list[Finding]:
    """Attention maps, and mean distance and entropy of every head (figure 7, right)."""
    found = attention.layers(subject.model, subject.variables, subject.images, *subject.others)
    if not found:
        raise DoesNotApply(NO_ATTENTION)
    within = [layer for layer in found if not layer.name.endswith(attention.CROSS)]
    across = [layer for layer in found if layer.name.endswith(attention.CROSS)]
    findings = [_maps(subject, within), _distances(subject, within)]
    if across:
        findings.append(_cross(subject, across))
    sequence = attention.sequence_layers(
        subject.model, subject.variables, subject.images, *subject.others
    )
    if sequence:
        findings.append(_sequence(subject, sequence))
    return findings


def look_at_rollout(subject: Subject) -> list[Finding]:
    """Attention rollout over each image."""
    subject.require_classes()
    shares = rollout.rollout(subject.model, subject.variables, subject.images)
    if shares is None:
        raise DoesNotApply(NO_ATTENTION)
    figure, axes = figures.panels(2, len(shares), "Attention rollout: share of each place")
    rows = []
    for i, share in enumerate(shares):
        figures.show(axes[0, i], subject.pixels[i], subject.names[i])
        figures.overlay(axes[1, i], subject.pixels[i], share, f"largest share {share.max():.2%}")
        rows.append(
            {
                "image": subject.names[i],
                "image_share": float(share.sum()),
                "largest": float(share.max()),
                "relative_entropy": _relative_entropy(share),
            }
        )
    mean = np.mean([row["relative_entropy"] for row in rows])
    text = f"rollout has {mean:.1%} of the entropy of a uniform map, the mean of {len(rows)} images"
    return [Finding("rollout", text, figure, rows)]


def _relative_entropy(share: np.ndarray) -> float:
    p = share.reshape(-1).astype(np.float64)
    p = p[p > 0] / p.sum()
    return float(-(p * np.log(p)).sum() / np.log(share.size))


def _maps(subject: Subject, found: list[attention.Layer]) -> Finding:
    """Draw the attention of the first image by layer and head."""
    shown = [found[i] for i in figures.chosen(len(found), MOST_LAYERS)]
    columns = 1 + max(len(_heads(layer)) for layer in shown)
    class_token = bool((found[0].queries[0, 0] < 0).any()) and found[0].queries.shape[1] == 1
    reader = "the class token reads" if class_token else "the middle of the image reads"
    figure, axes = figures.panels(
        len(shown), columns, f"{subject.names[0]}: where {reader}, by layer and head"
    )
    rows = []
    for axes_row, layer in zip(axes, shown, strict=True):
        figures.show(axes_row[0], subject.pixels[0], layer.name.removesuffix("/attention"))
        maps = attention.token_maps(layer, 0) if class_token else _middle(layer)
        for axis in axes_row[1:]:
            axis.set_axis_off()
        for axis, head in zip(axes_row[1:], _heads(layer), strict=False):
            axis.set_axis_on()
            title = f"head {head + 1}: at most {maps[0, head].max():.1%}"
            figures.overlay(axis, subject.pixels[0], maps[0, head], title)
    for layer in found:
        maps = attention.token_maps(layer, 0) if class_token else _middle(layer)
        rows += [
            {
                "layer": layer.name,
                "head": head + 1,
                "largest": float(maps[:, head].max(axis=(1, 2)).mean()),
                "on_image": float(maps[:, head].sum(axis=(1, 2)).mean()),
            }
            for head in range(maps.shape[1])
        ]
    largest = max(rows, key=lambda row: row["largest"])
    text = (
        f"{reader} one place with up to {largest['largest']:.1%} ({largest['layer']}, head "
        f"{largest['head']}), the mean of {len(subject.images)} images"
    )
    return Finding("attention_maps", text, figure, rows)


def _heads(layer: attention.Layer) -> list[int]:
    return figures.chosen(layer.weights.shape[2], MOST_HEADS)


def _middle(layer: attention.Layer) -> np.ndarray:
    """Return what the place nearest to the middle reads: [B, heads, rows, columns].

    A masked autoencoder keeps other patches of each image, so the place may have no token.
    """
    rows, columns = layer.shape
    index = np.stack(np.indices(layer.shape), axis=-1).reshape(-1, 2)
    apart = np.abs(index - [(rows - 1) / 2, (columns - 1) / 2]).sum(axis=1)
    maps = np.zeros((len(layer.weights), layer.weights.shape[2], rows, columns), np.float32)
    for image, queries in enumerate(layer.queries):
        placed = queries[queries >= 0]
        nearest = placed[apart[placed].argmin()]
        one = layer._replace(
            weights=layer.weights[image : image + 1],
            queries=layer.queries[image : image + 1],
            keys=layer.keys[image : image + 1],
        )
        maps[image] = attention.place_maps(one, int(nearest))[0]
    return maps


def _distances(subject: Subject, found: list[attention.Layer]) -> Finding:
    """Draw mean distance and entropy of every head against the layer."""
    figure, axes = figures.panels(
        1, 2, "Attention of every head, the mean over images and queries", width=5, height=4
    )
    rows = []
    for i, layer in enumerate(found):
        distance, entropy = attention.mean_distance(layer), attention.entropy(layer)
        for axis, values in zip(axes[0], (distance, entropy), strict=True):
            axis.plot([i + 1] * len(values), values, "o", color=figures.COLOURS[0], alpha=0.6)
        rows += [
            {
                "layer": layer.name,
                "head": head + 1,
                "distance_in_pixels": float(distance[head]),
                "entropy_in_nats": float(entropy[head]),
            }
            for head in range(len(distance))
        ]
    for axis, label in zip(axes[0], ("mean distance, pixels", "entropy, nats"), strict=True):
        axis.set(xlabel="layer with self-attention", ylabel=label, ylim=(0, None))
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.3)
    first = [row["distance_in_pixels"] for row in rows if row["layer"] == found[0].name]
    last = [row["distance_in_pixels"] for row in rows if row["layer"] == found[-1].name]
    text = (
        f"mean distance {min(first):.1f} … {max(first):.1f} pixels in the first layer, "
        f"{min(last):.1f} … {max(last):.1f} in the last"
    )
    return Finding("attention_distance", text, figure, rows)


def _cross(subject: Subject, found: list[attention.Layer]) -> Finding:
    """Draw where each output token reads the image: last layer, mean of its heads.

    Tokens after the end of a sequence are left out.
    """
    layer = found[-1]
    weights = layer._replace(weights=layer.weights.mean(axis=2, keepdims=True))
    read = np.asarray(subject.others[0])
    steps = ((read != EOS) & (read != PAD)).sum(axis=1)
    count = min(len(subject.images), 4)
    height, width = subject.pixels.shape[1:3]
    figure, axes = figures.panels(
        count,
        1 + steps.max(),
        f"{layer.name}: where each output token reads, the mean of its heads",
        height=figures.PANEL * min(max(height / width, 0.3), 1.0),
    )
    centres, rows = attention.centre_columns(layer), []
    maps = [attention.token_maps(weights, step)[:, 0] for step in range(steps.max())]
    for axis in axes.flat:
        axis.set_axis_off()
    for i, step in ((i, step) for i, own in enumerate(steps) for step in range(own)):
        place = {"image": subject.names[i], "token": step + 1}
        rows.append({**place, "centre_column": float(centres[i, step])})
        if i < count:
            axes[i, 1 + step].set_axis_on()
            written = read[i, step + 1] if step + 1 < steps[i] else EOS
            title = "end" if written == EOS else subject.class_name(int(written) - EOS - 1)
            title = f"{step + 1}: {title}"
            figures.overlay(axes[i, 1 + step], subject.pixels[i], maps[step][i], title)
    for i in range(count):
        axes[i, 0].set_axis_on()
        figures.show(axes[i, 0], subject.pixels[i], subject.names[i])
    ends = centres[:, 0].mean(), centres[np.arange(len(steps)), steps - 1].mean()
    text = f"mean centre of attention: column {ends[0]:.1f}, at the last token {ends[1]:.1f}"
    if (steps > 2).any():  # sequences
        moves = [(np.diff(own[: n - 1]) > 0).all() for own, n in zip(centres, steps, strict=True)]
        text += f"; it moves to the right at each class in {sum(moves)} of {len(moves)} images"
    return Finding("cross_attention", text, figure, rows)


def _sequence(subject: Subject, found: dict[str, np.ndarray]) -> Finding:
    """Draw which tokens of the sequence each token reads: the causal mask, and what is inside."""
    shown = [list(found)[i] for i in figures.chosen(len(found), MOST_LAYERS)]
    figure, axes = figures.panels(
        1,
        len(shown),
        f"Tokens that a token of the output reads, mean of {len(subject.images)} images",
        width=3.4,
        height=3.6,
    )
    for axis, name in zip(axes[0], shown, strict=True):
        mean = found[name].mean(axis=(0, 1))
        drawn = figures.show_map(axis, mean, limits=(0, 1))
        ticks = range(len(mean))
        axis.set_xticks(ticks, [str(i + 1) for i in ticks], fontsize=9)
        axis.set_yticks(ticks, [str(i + 1) for i in ticks], fontsize=9)
        axis.set(xlabel="token that is read", ylabel="token that reads")
        axis.set_title(figures.text(name))
    figure.colorbar(drawn, ax=axes[0, -1], shrink=0.8, label="attention")
    rows = []
    for name, weights in found.items():
        later = np.triu(np.ones(weights.shape[-2:], bool), k=1)
        rows += [
            {
                "layer": name,
                "head": head + 1,
                "on_later_tokens": float((weights[:, head] * later).sum(axis=-1).mean()),
                "on_itself": float(np.diagonal(weights[:, head], axis1=-2, axis2=-1).mean()),
            }
            for head in range(weights.shape[1])
        ]
    most = max(row["on_later_tokens"] for row in rows)
    text = f"at most {most:.1%} of a token's attention is on later tokens, which the mask hides"
    return Finding("sequence_attention", text, figure, rows)
