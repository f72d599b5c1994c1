"""Fine-tuning of a masked autoencoder's encoder (He et al., 2022, appendix A.1).

    python -m cv_jax convert mae_pretrain_vit_base.pth WEIGHTS.safetensors \\
        --model vit_b16 --source mae
    python launch.py --config configs/mae_finetune.py:imagenet2012 \\
        --config.init_from=WEIGHTS.safetensors
    python launch.py --config configs/mae_finetune.py:imagenet2012,model=vit_l16 …
    python launch.py --config configs/mae_finetune.py[:DATASET] --config.init_from=RUN

`mae_pretrain_vit_base.pth`: official weights; the decoder of `…_full.pth` is dropped. RUN: a run
directory of `configs/mae.py` with the same dataset. Without `init_from` training starts from
scratch.

Source: `FINETUNE.md` and `main_finetune.py` of facebookresearch/mae, for weights that were trained
on standardised pixels. The ImageNet recipe is not trained in this repository.
"""

from cv_jax import config


def get_config(arg=""):
    dataset, options = config.parse_argument(arg, model="vit_b16")
    c = config.default(dataset, options["model"])
    recipe = _paper if dataset == "imagenet2012" else _small
    recipe(c)
    return c


def _paper(c):
    """The classifier reads the normalised mean of the patches; five numbers depend on the size."""
    size = c.model.name.removeprefix("vit_")[0]
    c.image_size = 224
    c.batch_size = 1024
    c.total_epochs = 100.0 if size == "b" else 50.0
    c.augment = (
        "inception_crop(224, method='bicubic')|flip"
        "|randaugment(2, 9, 0.5, fill=(124, 116, 104))"
        "|erase(0.25, 'pixel')|mixup_or_cutmix(0.8, 1.0, 0.5)"
    )
    c.eval_preprocess = "resize_small(256, 'bicubic')|central_crop(224)"
    c.model.pool = "mean"
    c.model.class_token = True
    c.model.fc_norm = True
    c.model.drop_path_rate = {"l": 0.2, "h": 0.3}.get(size, 0.1)
    c.loss.label_smoothing = 0.1
    c.optim.name = "adamw"
    c.optim.learning_rate = 5e-4 if size == "b" else 1e-3
    c.optim.base_batch_size = 256
    c.optim.b1, c.optim.b2 = 0.9, 0.999
    c.optim.weight_decay = 0.05
    # The default rules of the model: no weight decay on biases, scales, positions and tokens.
    c.optim.layer_decay = 0.65 if size == "b" else 0.75
    c.schedule.name = "cosine"
    c.schedule.warmup_epochs = 5.0
    c.schedule.end_factor = 1e-6 / (c.optim.learning_rate * 1024 / 256)
    c.log.every_steps = 100


def _small(c):
    """The encoder of `_small` in `configs/mae.py`."""
    c.batch_size = 32
    c.total_epochs = 10.0 if c.data.name == "digits" else 40.0
    c.augment = "pad_crop(4)|flip" if c.data.name == "cifar10" else "pad_crop(1)"
    c.model.patch_size = 4
    c.model.width = 96
    c.model.depth = 6
    c.model.num_heads = 3
    c.model.pool = "mean"
    c.model.class_token = True
    c.model.fc_norm = True
    c.loss.label_smoothing = 0.1
    c.optim.name = "adamw"
    c.optim.learning_rate = 8e-3
    c.optim.base_batch_size = 256
    c.optim.weight_decay = 0.05
    # The default rules of the model: no weight decay on biases, scales, positions and tokens.
    c.optim.layer_decay = 0.75
    c.optim.clip_norm = 1.0
    c.schedule.name = "cosine"
    c.schedule.warmup_epochs = 1.0
    c.eval.every_epochs = 5.0
    c.checkpoint.every_epochs = 5.0
