"""Configs: reading a file, typed overrides, and the difference between two runs.

`fields.py` lists every field with its default, type, kind, range and meaning. A config file is
Python with one function:

    def get_config(arg):
        dataset, options = config.parse_argument(arg, model="vit_b16")
        c = config.default(dataset=dataset, model=options["model"])
        c.optim.learning_rate = 3e-4
        return c

`load("configs/vit_b16.py:cifar10,model=vit_s16", {"optim.learning_rate": "1e-3"})` reads it. The
result is a locked `ml_collections.ConfigDict`; every value has its field's type and range. Mistakes
raise `InputError`.

The kind of a field decides when its value may change:

- "result" fields decide what a run computes. A run directory accepts no other value.
- "evaluation" fields decide what is measured. They are fixed while a run trains; `--evaluate`
  accepts other values.
- "run" fields decide how the run is executed. They may change at every restart.
"""

from cv_jax.config.durations import in_steps, other_units, steps_of, total_steps
from cv_jax.config.files import (
    follows_seed,
    load,
    mistakes_of,
    parse_argument,
    resolved,
    run_file,
    split_argument,
    split_reference,
    stated,
)
from cv_jax.config.limits import check_values
from cv_jax.config.tree import (
    NORMALISATION,
    decay_all,
    default,
    difference,
    digest,
    flatten,
    kind,
    restore,
    set_value,
    with_normalisation,
)

__all__ = [
    "NORMALISATION",
    "check_values",
    "decay_all",
    "default",
    "difference",
    "digest",
    "flatten",
    "follows_seed",
    "in_steps",
    "kind",
    "load",
    "mistakes_of",
    "other_units",
    "parse_argument",
    "resolved",
    "restore",
    "run_file",
    "set_value",
    "split_argument",
    "split_reference",
    "stated",
    "steps_of",
    "total_steps",
    "with_normalisation",
]
