"""Masked pre-training with several masking ratios, then fine-tuning on few labels.

    python launch.py --config configs/experiments/masking.py --sweep=pretrain --seeds 1 \\
        --sweep_dir runs/pretrained
    python launch.py --config configs/experiments/masking.py:pretrained=FOLDER --sweep --seeds 3
    python launch.py --config configs/experiments/masking.py:cifar10,pretrained=FOLDER --sweep \\
        --seeds 3
    python -m cv_jax report SWEEP_DIR

FOLDER is the folder of the first sweep, such as `runs/pretrained`; all fine-tuned networks start
from its seed 0. `ratio=0` is a network from scratch. The recipes are those of `configs/mae.py` and
`configs/mae_finetune.py`; on digits four blocks of width 64 on patches of 4 of 32 pixels, and five
labelled images of each class.
"""

from pathlib import Path

from cv_jax import config
from cv_jax.config.files import from_file

RECIPES = Path(__file__).resolve().parent.parent
RATIOS = (0.25, 0.5, 0.75, 0.9)
OPTIONS = dict(stage=("finetune", "pretrain"), ratio=0.0, pretrained="", epochs=0.0)


def get_config(arg=""):
    dataset, options = config.parse_argument(arg, **OPTIONS)
    build = _pretrain if options["stage"] == "pretrain" else _finetune
    c = build(dataset, options)
    if dataset == "digits":
        c.model.width, c.model.depth, c.model.num_heads = 64, 4, 4
    return c


def _pretrain(dataset, options):
    c = from_file(RECIPES / "mae.py", dataset)
    c.model.mask_ratio = options["ratio"]
    c.total_epochs = options["epochs"] or 30.0
    if dataset == "digits":
        c.model.decoder_width, c.model.decoder_depth = 48, 1
    c.eval.every_epochs = c.checkpoint.every_epochs = c.total_epochs
    return c


def _finetune(dataset, options):
    c = from_file(RECIPES / "mae_finetune.py", dataset)
    if options["ratio"]:
        name = f"stage=pretrain,ratio={options['ratio']},seed=0"
        c.init_from = str(Path(options["pretrained"]) / name) if options["pretrained"] else None
    c.data.per_class = 5 if dataset == "digits" else 50
    c.batch_size = 50
    c.augment = "pad_crop(3)"
    c.optim.layer_decay = None
    # From scratch the best rate is larger (`benchmarks/masked_autoencoder.py`).
    c.optim.learning_rate = 8e-3 if options["ratio"] else 2e-2
    c.total_epochs, c.total_steps = None, 200 if dataset == "digits" else 1000
    c.schedule.warmup_epochs, c.schedule.warmup_percent = None, 10.0
    c.eval.every_epochs, c.eval.every_percent = None, 50.0
    c.checkpoint.every_epochs, c.checkpoint.every_percent = None, 100.0
    return c


def sweep():
    """Fine-tuning from every masking ratio, and from scratch."""
    for ratio in (0.0, *RATIOS):
        yield {"ratio": ratio}


def sweep_pretrain():
    """Pre-training with every masking ratio."""
    for ratio in RATIOS:
        yield {"stage": "pretrain", "ratio": ratio}
