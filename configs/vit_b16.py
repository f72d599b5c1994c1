"""ViT-B/16 (Dosovitskiy et al., 2020), or another size by `model`.

    python launch.py --config configs/vit_b16.py[:DATASET[,model=vit_s16]]       32×32 images
    python launch.py --config configs/vit_b16.py:imagenet2012[,model=vit_l16]    the paper's recipe
    python launch.py --config configs/vit_b16.py:imagenet2012,recipe=torchvision

Test accuracy on digits: 98.4 %, mean of seeds 0, 1 and 2; 5 to 8 minutes on two CPU cores
(`benchmarks/results/digits.json`). The network has its full size, 85,265,674 parameters at 32×32
pixels and 10 classes (86,567,656 at 224×224 and 1,000): twelve blocks of width 768 on a class token
and four patches. The recipe is made for a few minutes on a CPU: small batches make many updates in
few epochs; images shift by one pixel, because shifts by three lowered training and test accuracy in
the same time; float32, because bfloat16 is slower on CPUs without matrix units for it.

Source of the paper's recipe: training from scratch, table 3 and section B.1. torchvision's:
`references/classification` of pytorch/vision, for 8 GPUs. Its RandAugment strength of 9 of 30 is 3
of 10 here. It updates the averaged weights every 32 steps; here every step updates them, over the
same time. The ImageNet recipes are not trained in this repository.
"""

from cv_jax import config


def get_config(arg=""):
    dataset, options = config.parse_argument(arg, model="vit_b16", recipe=("paper", "torchvision"))
    c = config.default(dataset, options["model"])
    published = {"paper": _paper, "torchvision": _torchvision}
    recipe = published[options["recipe"]] if dataset == "imagenet2012" else _small
    recipe(c)
    return c


def _paper(c):
    """Adam with a weight decay of 0.3, decoupled here, and dropout of 0.1."""
    c.image_size = 224
    c.batch_size = 4096
    c.total_epochs = 300.0
    c.augment = "inception_crop(224)|flip"
    c.eval_preprocess = "resize_small(256)|central_crop(224)"
    c.model.dtype = "bfloat16"
    c.model.dropout_rate = 0.1
    c.optim.name = "adamw"
    c.optim.learning_rate = 3e-3
    c.optim.b1, c.optim.b2 = 0.9, 0.999
    c.optim.weight_decay = 0.3
    # The default rules of the model: no weight decay on biases, scales, positions and tokens.
    c.optim.clip_norm = 1.0
    c.schedule.name = "cosine"
    c.schedule.warmup_epochs, c.schedule.warmup_steps = None, 10000
    c.schedule.end_factor = 0.0
    c.eval.every_epochs = 5.0
    c.log.every_steps = 100


def _torchvision(c):
    """Strong augmentation, averaged weights, and weight decay on all parameters."""
    c.image_size = 224
    c.batch_size = 4096
    c.total_epochs = 300.0
    c.augment = (
        "repeat(3)|inception_crop(224)|flip|randaugment(2, 3, probability=0.93, fill=0.0)"
        "|mixup_or_cutmix(0.2, 1.0, 0.5)"
    )
    c.eval_preprocess = "resize_small(256)|central_crop(224)"
    c.model.dtype = "bfloat16"
    # The default of the model is no dropout: dropout_rate = 0.0.
    c.loss.label_smoothing = 0.11
    c.optim.name = "adamw"
    c.optim.learning_rate = 3e-3
    c.optim.b1, c.optim.b2 = 0.9, 0.999
    c.optim.weight_decay = 0.3
    vit = c.model.name.startswith(("vit", "deit"))
    c.optim.rules = () if vit else config.decay_all(c.model.name)
    c.optim.clip_norm = 1.0
    c.schedule.name = "cosine"
    c.schedule.warmup_epochs = 30.0
    c.schedule.warmup_factor = 0.033
    c.schedule.end_factor = 0.0
    c.ema.decay = 1 - (1 - 0.99998) * 4096 / 300
    c.eval.every_epochs = 5.0
    c.log.every_steps = 100


def _small(c):
    """Few epochs with many updates, for two CPU cores."""
    c.batch_size = 32
    c.total_epochs = 10.0 if c.data.name == "digits" else 40.0
    c.augment = "pad_crop(4)|flip" if c.data.name == "cifar10" else "pad_crop(1)"
    c.model.dtype = "float32"
    c.optim.name = "adamw"
    c.optim.learning_rate = 1.3e-4
    c.optim.b2 = 0.98
    c.optim.weight_decay = 0.05
    # The default rules of the model: no weight decay on biases, scales, positions and tokens.
    c.optim.clip_norm = 1.0
    c.schedule.name = "cosine"
    c.schedule.warmup_epochs = 1.0
    c.eval.every_epochs = 4.0
    # A checkpoint has one gigabyte: save only half way and at the end.
    c.checkpoint.every_percent, c.checkpoint.every_epochs = 50.0, None
