"""Transformer of Vaswani et al. (2017) that learns to copy, reverse or sort up to ten letters.

    python launch.py --config configs/transformer.py           reverse
    python launch.py --config configs/transformer.py:sort
    python launch.py --config configs/transformer.py:copy

The network is the paper's with two layers of width 64 in encoder and decoder. Label smoothing, Adam
and the schedule are those of section 5. The peak rate is smaller than theirs, (width · warm-up
steps)^-0.5 = 1.0e-2. They average the last checkpoints (section 6.1), here all parameters are
averaged. Dropout, 0.1 in the paper, is 0.

Exact match on held-out sequences, greedy and beam search: copy 100 % (seeds 0, 1, 2), reverse 100 %
and sort 99.95 % (seeds 0 and 1); at most 163 seconds on one CPU core with other load
(`benchmarks/results/experiments/transformer_ablations`).
"""

from cv_jax import config


def get_config(arg=""):
    dataset, _ = config.parse_argument(arg or "reverse")
    c = config.default(dataset, "transformer_base")
    c.batch_size = 32
    c.total_steps, c.total_epochs = 1500, None
    c.model.vocab_size = 23  # 20 letters, PAD, BOS and EOS
    c.model.width = 64
    c.model.depth = 2
    c.model.num_heads = 4
    c.model.hidden_dim = 128
    c.model.dropout_rate = 0.0
    c.loss.label_smoothing = 0.1
    c.optim.name = "adam"
    c.optim.learning_rate = 3e-3
    c.optim.b2, c.optim.eps = 0.98, 1e-9
    c.schedule.name = "rsqrt"
    c.schedule.warmup_percent = 10.0
    c.ema.decay, c.ema.warmup = 0.995, True
    c.eval.max_length = 12
    c.eval.every_percent, c.eval.every_epochs = 50.0, None
    c.checkpoint.every_percent, c.checkpoint.every_epochs = 50.0, None
    return c
