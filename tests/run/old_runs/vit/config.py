"""A ViT with layer-wise decay, micro-batches, stochastic depth and random views."""

from cv_jax import config


def get_config(arg=""):
    c = config.default("digits", "vit_ti16")
    c.image_size = 8
    c.batch_size = 16
    c.total_epochs, c.total_steps = None, 12
    c.model.patch_size = 4
    c.model.width = 16
    c.model.depth = 2
    c.model.num_heads = 2
    c.model.drop_path_rate = 0.2
    c.augment = "resize(8)|pad_crop(1)|randaugment(1, 5)"
    c.eval_preprocess = "resize(10)|ten_crop(8)"
    c.loss.label_smoothing = 0.1
    c.optim.name = "lamb"
    c.optim.learning_rate = 3e-3
    c.optim.weight_decay = 0.05
    c.optim.layer_decay = 0.8
    c.optim.accumulate_steps = 2
    c.optim.clip_norm = 1.0
    c.schedule.warmup_steps = 3
    c.eval.every_epochs, c.eval.every_steps = None, 6
    c.checkpoint.every_epochs, c.checkpoint.every_steps = None, 4
    c.checkpoint.keep_last = 3
    c.log.every_steps = 2
    return c
