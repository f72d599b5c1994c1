"""Masked pre-training, then classifiers from few labels, with the controls that a claim needs.

    python launch.py --config configs/experiments/masking.py --sweep=pretrain --seeds 3 \\
        --sweep_dir runs/pretrained
    python launch.py --config configs/experiments/masking.py:pretrained=FOLDER --sweep --seeds 3
    python launch.py --config configs/experiments/masking.py:cifar10,pretrained=FOLDER --sweep \\
        --seeds 3
    python -m cv_jax report SWEEP_DIR

FOLDER is the folder of the first sweep, such as `runs/pretrained`. Each seed has its own
pre-trained network and its own labelled images, equal for all stages:

    finetune   fine-tuning for a fixed number of steps; `ratio=0` is from scratch
    longer     from scratch, with the multiply-adds of pre-training and fine-tuning together
    probe      the encoder is frozen: a linear classifier of the class token, trained for as many
               steps; and logistic regression on the class token, and on the mean of all tokens;
               `ratio=0` has random weights
    pixels     the same two classifiers of the pixels

Four encoder blocks of width 64 and one decoder block of width 48, on patches of 4 of 32 pixels;
five labelled images of each class of digits, and 50 or 500 of CIFAR-10, which are 1 % and 10 %.
"""

from pathlib import Path

from cv_jax import config
from cv_jax.config.files import from_file

RECIPES = Path(__file__).resolve().parent.parent
RATIOS = (0.25, 0.5, 0.75, 0.9)
PAPER = 0.75
STAGES = ("finetune", "pretrain", "longer", "probe", "pixels")
OPTIONS = dict(stage=STAGES, ratio=0.0, labels=0, pretrained="", epochs=0.0)
# Dataset → labelled images of a class, by default the first number.
LABELS = {"digits": (5,), "cifar10": (50, 500)}
IMAGES = {"digits": 1438, "cifar10": 50_000}  # to pre-train on
EPOCHS = {"digits": 30.0, "cifar10": 10.0}  # of pre-training
STEPS = {"digits": 200, "cifar10": 1000}  # of fine-tuning, with 48 images each
# Multiply-adds of an image in pre-training with the ratio of the paper, relative to fine-tuning.
COST = {"digits": 0.3904, "cifar10": 0.402}


def get_config(arg=""):
    dataset, options = config.parse_argument(arg, **OPTIONS)
    if dataset not in LABELS:
        raise ValueError(f"dataset {dataset} is not one of {', '.join(LABELS)}")
    options["epochs"] = options["epochs"] or EPOCHS[dataset]
    stage = options["stage"]
    c = _pretrain(dataset, options) if stage == "pretrain" else _classify(dataset, options)
    if stage != "pixels":
        c.model.width, c.model.depth, c.model.num_heads = 64, 4, 4
    return c


def _pretrain(dataset, options):
    c = from_file(RECIPES / "mae.py", dataset)
    c.model.mask_ratio = options["ratio"]
    c.model.decoder_width, c.model.decoder_depth = 48, 1
    c.total_epochs = options["epochs"]
    c.eval.every_epochs = c.checkpoint.every_epochs = c.total_epochs
    return c


def _classify(dataset, options):
    stage = options["stage"]
    recipe = {"probe": "mae_probe.py", "pixels": "linear.py"}.get(stage, "mae_finetune.py")
    c = from_file(RECIPES / recipe, dataset)
    if options["ratio"] and options["pretrained"]:
        name = f"stage=pretrain,ratio={options['ratio']},seed={{seed}}"
        c.init_from = str(Path(options["pretrained"]) / name)
    c.data.per_class = options["labels"] or LABELS[dataset][0]
    c.data.subset_seed = None
    c.batch_size = 48
    c.total_epochs, c.total_steps = None, STEPS[dataset]
    if stage == "longer":
        images = options["epochs"] * IMAGES[dataset]
        c.total_steps += round(COST[dataset] * images / c.batch_size)
    c.schedule.warmup_epochs, c.schedule.warmup_percent = None, 10.0
    c.eval.every_epochs, c.eval.every_percent = None, 50.0
    c.checkpoint.every_epochs, c.checkpoint.every_percent = None, 100.0
    if stage in ("probe", "pixels"):
        _probe(c, stage)
    else:
        _finetune(c, dataset, options["ratio"])
    return c


def _finetune(c, dataset, ratio):
    c.augment = "pad_crop(3)" if dataset == "digits" else "pad_crop(4)|flip"
    c.optim.layer_decay = None
    # From scratch 2e-2 is better than 8e-3 and 2e-3 (digits, seed 0).
    c.optim.learning_rate = 8e-3 if ratio else 2e-2


def _probe(c, stage):
    c.eval.every_percent = 100.0
    if stage == "pixels":
        c.eval.extra = "logistic_regression(name='pixels')"
    else:
        c.eval.extra = (
            "logistic_regression(name='token')|logistic_regression(name='mean', feature='norm')"
        )


def sweep(arg):
    """Every stage after the pre-training, with every number of labels."""
    dataset, _ = config.parse_argument(arg, **OPTIONS)
    for labels in LABELS.get(dataset, LABELS["digits"]):
        own = {"labels": labels}
        for stage in ("finetune", "probe"):
            for ratio in (0.0, *RATIOS):
                yield {"stage": stage, "ratio": ratio, **own}
        yield {"stage": "longer", "ratio": 0.0, **own}
        yield {"stage": "pixels", "ratio": 0.0, **own}


def sweep_paper(arg):
    """The same with the masking ratio of the paper only."""
    return (point for point in sweep(arg) if point["ratio"] in (0.0, PAPER))


def sweep_pretrain():
    """Pre-training with every masking ratio."""
    for ratio in RATIOS:
        yield {"stage": "pretrain", "ratio": ratio}


def sweep_pretrain_paper():
    """Pre-training with the masking ratio of the paper."""
    yield {"stage": "pretrain", "ratio": PAPER}
