"""Made-up trials of every chapter: in one world its claim is true, in the other it is false."""

from cv_jax.course.chapter import Trial

SEEDS = 3
TEST = "test_accuracy"
TRAIN = "train_eval_accuracy"


def _nets(study, key, values, metric=TEST, **more):
    """Rows of settings that differ in one key: value → (metric in the true, in the false world)."""
    return [(study, {key: name, **more}, {metric: pair}) for name, pair in values.items()]


def _linear():
    def row(net, policy, shifted, **more):
        metrics = {"shifted_accuracy": shifted, "mirrored_accuracy": shifted, TEST: (0.9, 0.9)}
        return "crops", {"net": net, "policy": policy}, {**metrics, **more}

    cosines = {"own_cosine": (0.6, 0.1), "other_cosine": (-0.1, 0.1)}
    return [
        row("linear", "none", (0.2, 0.9), **cosines),
        row("linear", "flip_crop", (0.25, 0.9)),
        row("resnet", "none", (0.3, 0.9)),
        row("resnet", "flip_crop", (0.9, 0.9)),
        row("vit", "none", (0.3, 0.9)),
        row("vit", "flip_crop", (0.8, 0.9)),
    ]


def _convolution():
    rows = _nets("convolution", "net", {"lenet5": (0.95, 0.8)}, pixels="in_order")
    rows += _nets("convolution", "net", {"lenet5": (0.9, 0.8)}, pixels="moved")
    rows += _nets("convolution", "net", {"lenet5": (0.8, 0.95)}, pixels="shuffled")
    for pixels in ("in_order", "moved", "shuffled"):
        rivals = dict.fromkeys(("mlp_parameters", "mlp_multiply_adds"), (0.85, 0.85))
        rows += _nets("convolution", "net", rivals, pixels=pixels)
    return rows


def _alexnet():
    worse = dict.fromkeys(("no_dropout", "no_lrn", "no_overlap", "no_augmentation"), (0.8, 0.95))
    accuracies = {"none": (0.9, 0.9), "tanh": (0.8, 0.9), "one_tower": (0.89, 0.95), **worse}
    steps = {"none": (30.0, 60.0), "tanh": (80.0, 60.0)}
    return [
        ("alexnet", {"change": name}, {TEST: pair, "steps_to_25": steps.get(name, (50.0, 50.0))})
        for name, pair in accuracies.items()
    ]


def _receptive_field():
    def row(net, accuracy, effective):
        fields = {"theoretical_field": (20.0, 12.0), "initial_field": (6.0, 12.0)}
        return "field", {"net": net}, {TEST: accuracy, "effective_field": effective, **fields}

    fields = [
        row("one_1x1", (0.5, 0.9), (2.0, 13.0)),
        row("one_3x3", (0.7, 0.9), (4.0, 13.0)),
        row("two_3x3", (0.8, 0.9), (6.0, 12.5)),
        row("three_3x3", (0.9, 0.8), (9.0, 12.0)),
    ]
    accuracies = {"three_3x3": (0.9, 0.8), "one_7x7": (0.8, 0.9), "one_7x7_narrow": (0.7, 0.9)}
    return fields + _nets("filters", "net", accuracies)


def _vgg():
    values = {1: (0.8, 0.95), 2: (0.85, 0.9), 4: (0.95, 0.9), 8: (0.9, 0.9), 12: (0.2, 0.95)}
    return [("vgg_depth", {"filters": n}, {TEST: pair, TRAIN: pair}) for n, pair in values.items()]


def _degradation():
    def row(net, depth, train, ratio, skipped=(0.5, 0.5)):
        metrics = {TRAIN: train, TEST: (0.95, 0.95), "gradient_ratio": ratio}
        return "depth", {"net": net, "depth": depth}, {**metrics, "skipped_accuracy": skipped}

    rows = [
        row("plain", 8, (1.0, 1.0), (2.0, 2.0)),
        row("plain", 20, (0.9, 1.0), (20.0, 2.0), skipped=(0.2, 0.94)),
        row("plain", 44, (0.4, 1.0), (800.0, 2.0)),
        row("residual", 8, (1.0, 1.0), (2.0, 2.0)),
        row("residual", 20, (1.0, 0.8), (3.0, 3.0), skipped=(0.93, 0.2)),
        row("residual", 44, (1.0, 0.5), (4.0, 4.0)),
    ]
    cures = {"none": (0.4, 0.4), **dict.fromkeys(("small_rate", "warm_up", "no_norm"), (0.9, 0.4))}
    rows += _nets("cures", "change", cures, metric=TRAIN)
    same = dict.fromkeys(("shortcut_b", "shortcut_c", "stochastic_depth"), (0.99, 0.5))
    return rows + _nets("variants", "change", {"none": (0.99, 0.99), **same}, metric=TRAIN)


def _attention():
    def row(scale, accuracy, entropy):
        metrics = {"row_error": (1e-6, 0.1), "spread": (3.0, 0.1), "reach": (0.9, 0.2)}
        return (
            "attention",
            {"scale": scale},
            {TEST: accuracy, "initial_entropy": entropy, **metrics},
        )

    scales = [row("sqrt", (0.9, 0.8), (3.0, 2.0)), row("none", (0.8, 0.9), (2.0, 3.0))]
    return scales + _nets("mask", "model.causal", {True: (1.0, 0.5), False: (0.0, 0.5)})


def _vit():
    rows = []
    for crops, gain in (("no", (0.0, 0.0)), ("yes", (0.1, -0.1))):
        for percent, resnet, vit in (
            (1.0, (0.5, 0.5), (0.3, 0.5)),
            (10.0, (0.8, 0.8), (0.5, 0.85)),
            (100.0, (0.9, 0.9), (0.95, 0.85)),
        ):
            own = {"percent": percent, "crops": crops}
            moved = tuple(value + more for value, more in zip(vit, gain, strict=True))
            rows.append(("data", {"net": "resnet", **own}, {TEST: resnet}))
            rows.append(("data", {"net": "vit", **own}, {TEST: moved}))
    for positions, pool, pair in (
        ("learned", "cls", (0.9, 0.9)),
        ("none", "cls", (0.5, 0.9)),
        ("learned", "mean", (0.92, 0.5)),
    ):
        rows.append(("parts", {"positions": positions, "pool": pool}, {TEST: pair}))
    for patch, budget, pair in (
        (4, "updates", (0.95, 0.8)),
        (8, "updates", (0.8, 0.9)),
        (8, "compute", (0.85, 0.95)),
    ):
        rows.append(("patches", {"patch": patch, "budget": budget}, {TEST: pair}))
    return rows


def _deit():
    values = {"plain": (0.6, 0.8), "augmented": (0.8, 0.7)}
    values |= {"taught": (0.7, 0.7), "augmented_and_taught": (0.9, 0.6)}
    return _nets("deit", "net", values)


def _masking():
    values = {0.0: (0.6, 0.8), 0.25: (0.7, 0.9), 0.5: (0.8, 0.9), 0.75: (0.9, 0.7), 0.9: (0.7, 0.9)}
    rows = _nets("mae", "ratio", values, stage="finetune")
    rows += _nets("mae", "ratio", {0.0: (0.65, 0.8)}, stage="longer")
    probes = {0.0: (0.4, 0.7), 0.75: (0.8, 0.6)}
    rows += _nets("mae", "ratio", probes, metric="mean_accuracy", stage="probe")
    return rows + _nets("mae", "ratio", {0.0: (0.7, 0.8)}, metric="pixels_accuracy", stage="pixels")


def _swin():
    exponents = {}
    for what in ("multiply_adds", "seconds", "memory"):
        exponents[f"swin_{what}_exponent"] = (1.0, 1.8)
        exponents[f"vit_{what}_exponent"] = (1.8, 1.0)
    return [
        ("windows", {"windows": "shifted"}, {TEST: (0.9, 0.8), **exponents}),
        ("windows", {"windows": "fixed"}, {TEST: (0.8, 0.9)}),
    ]


def _line():
    names = ["linear", "mlp", "lenet5", "alexnet", "vgg11_bn", "resnet8_cifar", "vit_s16", "swin_t"]
    values = {name: (0.5 + 0.05 * i, 0.9 - 0.05 * i) for i, name in enumerate(names)}
    return _nets("equal_compute", "model", values)


ROWS = {
    "linear": _linear,
    "convolution": _convolution,
    "alexnet": _alexnet,
    "receptive_field": _receptive_field,
    "vgg": _vgg,
    "degradation": _degradation,
    "attention": _attention,
    "vit": _vit,
    "deit": _deit,
    "masking": _masking,
    "swin": _swin,
    "line": _line,
}


def trials(chapter: str, true: bool, seeds: int = SEEDS) -> list[Trial]:
    """Return made-up trials; seeds differ by a thousandth of a value."""
    found = []
    for study, values, metrics in ROWS[chapter]():
        for seed in range(seeds):
            own = {k: pair[0 if true else 1] * (1 + 1e-3 * seed) for k, pair in metrics.items()}
            found.append(Trial(study, values, seed, own))
    return found
