"""A fully connected net with averaged weights, norms, a probe and the best checkpoint."""

from cv_jax import config


def get_config(arg=""):
    c = config.default("digits", "mlp")
    c.image_size = 8
    c.batch_size = 32
    c.total_epochs, c.total_steps = None, 12
    c.model.widths = (16,)
    c.model.dropout_rate = 0.1
    c.augment = "flip|mixup(0.2)"
    c.ema.decay = 0.9
    c.optim.name = "adamw"
    c.optim.learning_rate = 3e-3
    c.optim.weight_decay = 0.01
    c.eval.extra = "knn(k=3, feature='pre_logits', train_examples=100)"
    c.eval.every_epochs, c.eval.every_steps = None, 4
    c.checkpoint.every_epochs, c.checkpoint.every_steps = None, 4
    c.checkpoint.keep_last = 3
    c.log.every_steps = 2
    c.log.norms = True
    return c
