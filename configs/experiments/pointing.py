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
# Model → file of its recipe.
MODELS = {"resnet8_cifar": "resnet20_cifar.py", "swin_t": "swin.py", "vit_ti16": "vit_ti16.py"}


def get_config(arg=""):
    arg = f"digits_canvas,{arg}".rstrip(",")  # the only dataset with known places
    dataset, options = config.parse_argument(arg, model="resnet8_cifar", epochs=5.0)
    model = options["model"]
    if model not in MODELS:
        raise ValueError(f"model={model} is not one of {', '.join(MODELS)}")
    c = from_file(RECIPES / MODELS[model], f"{dataset},model={model}")
    c.total_epochs = options["epochs"]
    c.augment = "pad_crop(4)"
    c.batch_size = 32
    c.eval.every_epochs = c.checkpoint.every_epochs = 5.0
    if model == "swin_t":
        c.model.patch_size = 4  # maps of 16, 8 and 4 tokens a side
    if model == "vit_ti16":
        c.model.patch_size = 8  # 64 tokens
        c.model.width = 96
        c.model.depth = 6
    return c


def sweep(arg):
    """Every model."""
    for model in MODELS:
        yield {"model": model}
