"""Swin Transformer (Liu et al., 2021), and its second version by `model`.

    python launch.py --config configs/swin.py:imagenet2012[,model=swin_s]     the paper's recipe
    python launch.py --config configs/swin.py:imagenet2012,recipe=torchvision
    python launch.py --config configs/swin.py[:DATASET[,model=swinv2_t]]      32×32 images, small

Source of the paper's recipe: appendix A2.1, and `config.py` of microsoft/Swin-Transformer, for 8
GPUs. torchvision's: `references/classification` of pytorch/vision, for 8 GPUs; the size of its test
images is that of the published weights. It updates the averaged weights every 32 steps; here every
step updates them, over the same time. The ImageNet recipes are not trained in this repository.

Test accuracy on digits: 95.5 %, mean of seeds 0, 1 and 2; 1.6 minutes on one CPU core
(`benchmarks/results/experiments/lineage/report.md`).
"""

from cv_jax import config

# Last letter of the model name → stochastic depth, and side of the resized test images.
DROP_PATH = {"t": 0.2, "s": 0.3, "b": 0.5}
TORCHVISION_RESIZE = {"t": 232, "s": 246, "b": 238}


def get_config(arg=""):
    dataset, options = config.parse_argument(arg, model="swin_t", recipe=("paper", "torchvision"))
    c = config.default(dataset, options["model"])
    published = {"paper": _paper, "torchvision": _torchvision}
    recipe = published[options["recipe"]] if dataset == "imagenet2012" else _small
    recipe(c)
    return c


def _paper(c):
    """RandAugment; biases, norms and bias tables have no weight decay."""
    c.image_size = 224
    c.batch_size = 1024
    c.total_epochs = 300.0
    c.augment = (
        "inception_crop(224, method='bicubic')|flip"
        "|randaugment(2, 9, 0.5, fill=(124, 116, 104))"
        "|erase(0.25, 'pixel')|mixup_or_cutmix(0.8, 1.0, 0.5)"
    )
    c.eval_preprocess = "resize_small(256, 'bicubic')|central_crop(224)"
    c.model.drop_path_rate = DROP_PATH.get(c.model.name[-1], 0.2)
    c.loss.label_smoothing = 0.1
    c.optim.name = "adamw"
    c.optim.learning_rate = 1e-3
    c.optim.b1, c.optim.b2 = 0.9, 0.999
    c.optim.weight_decay = 0.05
    # The default rules of the model: no weight decay on biases, scales and position biases.
    c.optim.clip_norm = 5.0
    c.schedule.name = "cosine"
    c.schedule.warmup_epochs = 20.0
    c.schedule.warmup_factor = 1e-3
    c.schedule.end_factor = 0.01
    c.log.every_steps = 100


def _torchvision(c):
    """TrivialAugment, every image four times in a batch, averaged weights."""
    c.image_size = 224
    c.batch_size = 1024
    c.total_epochs = 300.0
    c.augment = (
        "repeat(4)|inception_crop(224, method='bicubic')|flip|trivialaugment('bicubic')"
        "|erase(0.25, 'constant', 0.02, 0.33, 0.3, 3.3)|mixup_or_cutmix(0.8, 1.0, 0.5)"
    )
    side = TORCHVISION_RESIZE.get(c.model.name[-1], 232)
    c.eval_preprocess = f"resize_small({side}, 'bicubic')|central_crop(224)"
    c.model.drop_path_rate = DROP_PATH.get(c.model.name[-1], 0.2)
    c.loss.label_smoothing = 0.1
    c.optim.name = "adamw"
    c.optim.learning_rate = 1e-3
    c.optim.b1, c.optim.b2 = 0.9, 0.999
    c.optim.weight_decay = 0.05
    # The default rules of the model: no weight decay on biases, scales and position biases.
    c.optim.clip_norm = 5.0
    c.schedule.name = "cosine"
    c.schedule.warmup_epochs = 20.0
    c.schedule.warmup_factor = 0.01
    c.schedule.end_factor = 0.01
    c.ema.decay = 1 - (1 - 0.99998) * 1024 / 300
    c.log.every_steps = 100


def _small(c):
    """Patches of 2 pixels, windows of 4 tokens: maps of 16, 8 and 4 tokens a side, two shifted."""
    c.batch_size = 32
    c.total_epochs = 16.0 if c.data.name == "digits" else 60.0
    c.augment = "pad_crop(4)|flip" if c.data.name == "cifar10" else "pad_crop(1)"
    c.model.patch_size = 2
    c.model.window_size = 4
    c.model.width = 32
    c.model.depths = (2, 2, 2)
    c.model.num_heads = (1, 2, 4)
    c.model.pretrained_windows = (0,)
    c.model.drop_path_rate = 0.0 if c.data.name == "digits" else 0.1
    c.loss.label_smoothing = 0.1
    c.optim.name = "adamw"
    c.optim.learning_rate = 1e-3
    c.optim.b2 = 0.98
    c.optim.weight_decay = 0.05
    # The default rules of the model: no weight decay on biases, scales and position biases.
    c.optim.clip_norm = 5.0
    c.schedule.name = "cosine"
    c.schedule.warmup_epochs = 1.0
    c.eval.every_epochs = 3.0
    c.checkpoint.every_epochs = 6.0
