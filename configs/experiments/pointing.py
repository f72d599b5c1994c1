"""A residual net, a Swin and a ViT that classify one digit on a noisy canvas of 64×64 pixels.

    python launch.py --config configs/experiments/pointing.py --sweep --seeds 3
    python benchmarks/pointing.py SWEEP_DIR --output FILE

The place of the digit is known, so saliency maps can be compared with the truth: Grad-CAM and
attention rollout must point at the digit. Results: `docs/experiments.md`.
"""

from pathlib import Path

from cv_jax import config
from cv_jax.config.files import from_file

RECIPES = Path(__file__).resolve().parent.parent
# Model → file of its recipe, and epochs.
MODELS = {
    "resnet8_cifar": ("resnet20_cifar.py", 5.0),
    "swin_t": ("swin.py", 40.0),
    "vit_ti16": ("vit_ti16.py", 10.0),
}


def get_config(arg=""):
    arg = f"digits_canvas,{arg}".rstrip(",")  # the only dataset with known places
    dataset, options = config.parse_argument(arg, model="resnet8_cifar")
    model = options["model"]
    if model not in MODELS:
        raise ValueError(f"model={model} is not one of {', '.join(MODELS)}")
    file, epochs = MODELS[model]
    c = from_file(RECIPES / file, f"{dataset},model={model}")
    c.total_epochs = epochs
    c.augment = "pad_crop(4)"
    c.batch_size = 32
    c.eval.every_epochs = c.checkpoint.every_epochs = 5.0
    if model == "swin_t":
        # One stage, and windows smaller than the digits: tokens hold only what is near to them.
        c.model.patch_size = 4
        c.model.window_size = 4
        c.model.width = 48
        c.model.depths, c.model.num_heads = (2,), (3,)
    if model == "vit_ti16":
        c.model.patch_size = 8  # 64 tokens
        c.model.width = 96
        c.model.depth = 6
    if model != "resnet8_cifar":
        # With AdamW the Swin stays at chance for 1,500 steps, because most tokens are background.
        c.optim.name = "muon"
        c.optim.learning_rate = 1e-2
        c.optim.momentum = 0.95
    return c


def sweep(arg):
    """Every model."""
    for model in MODELS:
        yield {"model": model}
