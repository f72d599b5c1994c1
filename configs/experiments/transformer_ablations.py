"""The Transformer without positions, and without the causal mask, on copy, reverse and sort.

    python launch.py --config configs/experiments/transformer_ablations.py --sweep --seeds 3
    python launch.py --config configs/experiments/transformer_ablations.py --sweep=mask --seeds 3
    python -m cv_jax report SWEEP_DIR

The recipe is that of `configs/transformer.py`. In the report, "test" is the exact match of greedy
search on held-out sequences, "test beam" that of beam search, and "train" the share of training
sequences that are right in every token when each token is predicted from the true tokens.

Results: `docs/experiments.md`.
"""

from pathlib import Path

from cv_jax.config.files import from_file

RECIPE = Path(__file__).resolve().parent.parent / "transformer.py"


def get_config(arg=""):
    return from_file(RECIPE, arg)


def sweep():
    """The Transformer of the paper, without positions, and without the mask, on each dataset."""
    for dataset in ("copy", "reverse", "sort"):
        for pos_embed, causal in (("sincos", True), ("none", True), ("sincos", False)):
            yield {"dataset": dataset, "model.pos_embed": pos_embed, "model.causal": causal}


def sweep_mask():
    """With and without the causal mask, on copying."""
    for causal in (True, False):
        yield {"dataset": "copy", "model.causal": causal}
