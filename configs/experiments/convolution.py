"""LeNet-5 against fully connected networks, also on moved images and on pixels in a random order.

    python launch.py --config configs/experiments/convolution.py --sweep --seeds 5
    python launch.py --config configs/experiments/convolution.py:cifar10 --sweep --seeds 5
    python -m cv_jax report SWEEP_DIR

The fully connected networks have one hidden layer, with as many parameters as LeNet-5
(`mlp_parameters`), or as many multiply-adds (`mlp_multiply_adds`). With `pixels=moved` the training
images are at random places, up to a quarter of their side away, and the test images an eighth of
their side down and right. With `pixels=shuffled` the pixels of every image are moved by one random
permutation: a fully connected network loses nothing, a convolution loses its neighbourhoods.

The recipe is that of `configs/lenet5.py` without augmentation, with the learning rate of
`configs/mlp.py` for the fully connected networks. Digits are few: 200 training images.
"""

from pathlib import Path

from cv_jax import config
from cv_jax.config.files import from_file

RECIPES = Path(__file__).resolve().parent.parent
NETS = ("lenet5", "mlp_parameters", "mlp_multiply_adds")
# pixels → operations after the enlargement, of the training images and of the test images.
PIXELS = {
    "in_order": ("", ""),
    "moved": ("|pad_crop(8)", "|shift(4, 4)"),
    "shuffled": ("|shuffle_pixels(0)", "|shuffle_pixels(0)"),
}
OPTIONS = dict(net=NETS, pixels=tuple(PIXELS), epochs=0.0)
CLASSES = 10


def get_config(arg=""):
    dataset, options = config.parse_argument(arg, **OPTIONS)
    mlp = options["net"] != "lenet5"
    c = from_file(RECIPES / ("mlp.py" if mlp else "lenet5.py"), dataset)
    if mlp:
        c.model.widths = (hidden(options["net"], 1 if dataset == "digits" else 3),)
        c.model.dropout_rate = 0.0
    c.batch_size = 32
    c.total_epochs = options["epochs"] or (60.0 if dataset == "digits" else 20.0)
    if dataset == "digits":
        c.data.train_split = "train[:200]"
    c.augment, c.eval_preprocess = (f"resize(32){added}" for added in PIXELS[options["pixels"]])
    split = c.data.train_split
    c.eval.extra = f"classification(name='train_eval', split='{split}', every_percent=100)"
    c.eval.every_epochs = c.checkpoint.every_epochs = c.total_epochs / 2
    return c


def hidden(net, channels):
    """Units of a hidden layer that gives the parameters or the multiply-adds of LeNet-5."""
    inputs = 32 * 32 * channels
    if net == "mlp_multiply_adds":
        # 5×5 filters on 28×28 and 10×10 places, then three fully connected layers.
        total = (
            28**2 * 25 * channels * 6 + 10**2 * 25 * 6 * 16 + 400 * 120 + 120 * 84 + 84 * CLASSES
        )
        return round(total / (inputs + CLASSES))
    filters = 25 * channels * 6 + 6 + 25 * 6 * 16 + 16
    total = filters + 401 * 120 + 121 * 84 + 85 * CLASSES
    return round((total - CLASSES) / (inputs + 1 + CLASSES))


def sweep():
    """Every network on pixels in order, moved, and shuffled."""
    for pixels in PIXELS:
        for net in NETS:
            yield {"net": net, "pixels": pixels}
