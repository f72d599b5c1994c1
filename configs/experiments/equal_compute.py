"""The line at equal compute and about equal parameters: no network wins by its size.

    python launch.py --config configs/experiments/equal_compute.py --sweep --seeds 3
    python launch.py --config configs/experiments/equal_compute.py:cifar10 --sweep --seeds 3
    python -m cv_jax report SWEEP_DIR

Every network of `NETS` has about 60 thousand parameters (the linear classifier has fewer: its size
is that of the image) and trains until its forward passes have made `compute` multiply-adds, but for
at most `MOST_STEPS` updates. The recipes are those of `configs/*.py` with their learning rates.
"""

from pathlib import Path

import jax

from cv_jax import config, models
from cv_jax.config.files import from_file

RECIPES = Path(__file__).resolve().parent.parent
# Model → file of its recipe, and the fields that give it about 60 thousand parameters.
NETS = {
    "linear": ("linear.py", {}),
    "mlp": ("mlp.py", {"widths": (60,)}),
    "lenet5": ("lenet5.py", {}),
    "alexnet": ("alexnet.py", {"channels": (8, 16, 24, 24, 16), "fc_width": 200, "pool_size": 1}),
    "vgg11_bn": ("vgg.py", {"widths": (8, 16, 24, 24, 24), "fc_width": 136}),
    "resnet8_cifar": ("resnet20_cifar.py", {"widths": (14, 28, 56), "stem_width": 14}),
    "vit_s16": ("vit_s16.py", {"width": 48, "depth": 2}),
    "swin_t": ("swin.py", {"width": 16, "depths": (2, 4), "num_heads": (1, 2)}),
}
MOST_STEPS = {"digits": 3000}  # of networks whose updates are cheap
OPTIONS = dict(model=tuple(NETS), compute=0.0)


def get_config(arg=""):
    dataset, options = config.parse_argument(arg, **OPTIONS)
    file, fields = NETS[options["model"]]
    c = from_file(RECIPES / file, f"{dataset},model={options['model']}")
    for name, value in fields.items():
        setattr(c.model, name, value)
    c.batch_size = 64
    compute = options["compute"] or (6e10 if dataset == "digits" else 1e12)
    steps = round(compute / (c.batch_size * multiply_adds(c, 1 if dataset == "digits" else 3)))
    c.total_epochs, c.total_steps = None, max(min(steps, MOST_STEPS.get(dataset, 30_000)), 1)
    c.schedule.name = "cosine"
    c.schedule.warmup_epochs, c.schedule.warmup_percent = None, 5.0
    c.augment = "pad_crop(4)|flip" if dataset == "cifar10" else f"pad_crop({c.image_size // 16})"
    c.eval.every_epochs, c.eval.every_percent = None, 10.0
    c.checkpoint.every_epochs, c.checkpoint.every_percent = None, 50.0
    c.eval.extra = "classification(name='train_eval', split='train', every_percent=100)"
    return c


def multiply_adds(c, channels):
    """Multiply-adds of the forward pass of one image."""
    fields = {k: v for k, v in c.model.items() if k != "name"}
    if "image_size" in models.fields(c.model.name):
        fields["image_size"] = c.image_size
    model = models.create(c.model.name, num_classes=10, **fields)
    image = jax.ShapeDtypeStruct((1, c.image_size, c.image_size, channels), "float32")

    def forward(image):  # nothing outside of the trace, so no device is opened
        variables = jax.eval_shape(lambda x: model.init(jax.random.key(0), x), image)
        zeros = jax.tree.map(lambda leaf: jax.numpy.zeros(leaf.shape, leaf.dtype), variables)
        return model.apply(zeros, image, train=False)[0]

    return models.count_multiply_adds(forward, image)[0]


def sweep():
    """Every network."""
    for model in NETS:
        yield {"model": model}
