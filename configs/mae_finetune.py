"""Fine-tuning of a masked autoencoder's encoder (He et al., 2022, appendix A.1).

    python launch.py --config configs/mae_finetune.py:imagenet2012 --config.init_from=W
    python launch.py --config configs/mae_finetune.py:imagenet2012,model=vit_l16 …
    python launch.py --config configs/mae_finetune.py[:DATASET] --config.init_from=RUN

W is a file that `python -m cv_jax convert` made of the official weights, or a run of
`configs/mae.py:imagenet2012`; RUN one of `configs/mae.py`. Without, training starts from scratch.

Recipe of the authors' release for weights trained on standardised pixels: AdamW, batch 1024,
learning rate for every 256 examples of a batch 5e-4 (B) or 1e-3 (L, H), cosine to 1e-6 after 5
epochs of warm-up, each layer at 0.65 (B) or 0.75 times the rate of the next, weight decay 0.05
(none on biases, norms, positions and tokens), 100 (B) or 50 epochs, label smoothing 0.1, stochastic
depth 0.1, 0.2, 0.3 for B, L, H, RandAugment, random erasing, mixup 0.8 or CutMix. The classifier
reads the average of the patches, normalised.
"""

from cv_jax import config


def get_config(arg=""):
    dataset, options = config.parse_argument(arg, model="vit_b16")
    c = config.default(dataset, options["model"])
    size = c.model.name.removeprefix("vit_")[0]
    c.model.pool = "mean"
    c.model.class_token = True
    c.model.fc_norm = True
    c.optim.weight_decay = 0.05
    c.optim.base_batch_size = 256
    c.schedule.warmup_epochs = 5.0
    c.loss.label_smoothing = 0.1
    if dataset == "imagenet2012":
        c.batch_size = 1024
        c.total_epochs = 100.0 if size == "b" else 50.0
        c.augment = (
            "inception_crop(224, method='bicubic')|flip"
            "|randaugment(2, 9, 0.5, fill=(124, 116, 104))"
            "|erase(0.25, 'pixel')|mixup_or_cutmix(0.8, 1.0, 0.5)"
        )
        c.eval_preprocess = "resize_small(256, 'bicubic')|central_crop(224)"
        c.model.drop_path_rate = {"l": 0.2, "h": 0.3}.get(size, 0.1)
        c.optim.learning_rate = 5e-4 if size == "b" else 1e-3
        c.optim.layer_decay = 0.65 if size == "b" else 0.75
        c.schedule.end_factor = 1e-6 / (c.optim.learning_rate * 1024 / 256)
        c.log.every_steps = 100
        return c
    # The encoder of configs/mae.py.
    c.batch_size = 32
    c.model.patch_size = 4
    c.model.width = 96
    c.model.depth = 6
    c.model.num_heads = 3
    c.total_epochs = 10.0 if dataset == "digits" else 40.0
    c.augment = "pad_crop(4)|flip" if dataset == "cifar10" else "pad_crop(1)"
    c.optim.learning_rate = 8e-3
    c.optim.layer_decay = 0.75
    c.optim.clip_norm = 1.0
    c.schedule.warmup_epochs = 1.0
    c.eval.every_epochs = 5.0
    c.checkpoint.every_epochs = 5.0
    return c
